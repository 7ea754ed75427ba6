"""Generates instructions from a seed: a hobby, a language, a public figure, combined at random, half of them shortened.

Llama 2 asked its own model for hobbies and figures, so that it knew all of them; ours stand in `words.py`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from .words import HOBBIES, LANGUAGES, LONG, PERSONAS, PROBES, SHORT, Words

KINDS = ("hobby", "language", "persona")


@dataclass(frozen=True)
class Constraint:
    """One thing that every answer of a conversation is to keep to.

    Args:
        kind: one of `checks.CHECKS`, by which it is decided whether an answer keeps to it, or one of your own.
        long: how it is said.
        short: how it is said in fewer words.
        accepts: what the check looks for in an answer; see there.
        probe: a question whose answer shows whether it is kept; "" where any answer shows that.
    """

    kind: str
    long: str
    short: str
    accepts: tuple[str, ...] = ()
    probe: str = ""


@dataclass(frozen=True)
class Instruction:
    """One constraint or several, in one language.

    Args:
        shortened: whether it is trained on in its short form.
    """

    constraints: tuple[Constraint, ...]
    language: str = "en"
    shortened: bool = False

    @property
    def text(self) -> str:
        """What responses are sampled with."""
        return self._joined([constraint.long for constraint in self.constraints], " ")

    @property
    def training_text(self) -> str:
        """What is trained on: half of the time in fewer words."""
        if not self.shortened:
            return self.text
        return self._joined([constraint.short for constraint in self.constraints], "; ")

    def _joined(self, parts: Sequence[str], separator: str) -> str:
        return ({" ": "", "; ": "；"}[separator] if self.language == "zh" else separator).join(parts)


def sample_instructions(
    n: int, seed: int = 0, *, languages: Sequence[str] = ("en", "zh"), kinds: Sequence[str] = KINDS
) -> list[Instruction]:
    """`n` instructions, each of one to all kinds, in one of the languages.

    Raises:
        ValueError: an unknown kind or language, or none.
    """
    for given, known in ((languages, ("en", "zh")), (kinds, KINDS)):
        if not given or set(given) - set(known) or len(set(given)) < len(given):
            raise ValueError(f"{list(given)}: give one or more of {', '.join(known)}, each once")
    rng = random.Random(f"instructions {seed}")
    return [_sample(rng, languages, kinds) for _ in range(n)]


def _sample(rng: random.Random, languages: Sequence[str], kinds: Sequence[str]) -> Instruction:
    language = rng.choice(languages)
    chosen = rng.sample(list(kinds), rng.randint(1, len(kinds)))
    return Instruction(tuple(_constraint(kind, language, rng) for kind in chosen), language, rng.random() < 0.5)


def _constraint(kind: str, language: str, rng: random.Random) -> Constraint:
    if kind == "language":
        value, script = rng.choice(LANGUAGES)
        accepts: tuple[str, ...] = (script,)
    else:
        value = rng.choice(HOBBIES if kind == "hobby" else PERSONAS)
        accepts = tuple(value)
    long, short = (words[kind].of(language).format(value=value.of(language)) for words in (LONG, SHORT))
    return Constraint(kind, long, short, accepts, PROBES.get(kind, Words("", "")).of(language))

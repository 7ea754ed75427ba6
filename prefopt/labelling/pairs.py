"""Which candidates people see against each other: blind pairs, their sides shuffled, some of them twice."""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import floor

from ..candidates.candidate import Candidate
from ..candidates.selection import shown_text
from ..data.records import Messages
from ..utils.fingerprint import fingerprint_of_values
from ..utils.names import hint

logger = logging.getLogger(__name__)

Fits = Callable[[Candidate, Candidate], bool]
HOW: Mapping[str, Fits] = {
    "random": lambda one, other: True,
    "across_policies": lambda one, other: one.policy != other.policy,
    "within_policy": lambda one, other: one.policy == other.policy,
    "across_temperatures": lambda one, other: one.temperature != other.temperature,
}
"""Which two responses to a prompt may stand against each other. Llama 2 (arXiv:2307.09288, section 3.1) took them from
two variants of the model, and with other temperatures, so that they differ more."""


@dataclass(frozen=True)
class LabelPair:
    """Two responses to a prompt, as they are shown once.

    Args:
        id: what annotators see of it; says nothing about the candidates.
        pair: names the two candidates, whichever of them stands on which side.
        first, second: the candidates, in an order that does not depend on the sides.
        swapped: whether the second is shown as A.
        repeat: whether the pair is shown a second time by this, with its sides swapped.
    """

    id: str
    pair: str
    first: Candidate
    second: Candidate
    swapped: bool
    repeat: bool = False

    @property
    def prompt(self) -> Messages:
        """The prompt that both responses answer."""
        return self.first.prompt

    @property
    def shown(self) -> tuple[Candidate, Candidate]:
        """What stands as A and what as B."""
        return (self.second, self.first) if self.swapped else (self.first, self.second)

    @property
    def texts(self) -> tuple[str, str]:
        """What is read as A and as B."""
        a, b = self.shown
        return shown_text(a), shown_text(b)


def pairs_to_label(
    candidates: Iterable[Candidate],
    *,
    count: int | None,
    seed: int,
    repeats: float = 0.1,
    how: str | Fits = "random",
    include_truncated: bool = False,
) -> list[LabelPair]:
    """Choose pairs for people to compare, in the order in which they are shown.

    Every prompt gives one pair before any gives a second. What is chosen depends on the seed and on what the candidates
    are, not on their order: with a higher count come the same pairs, with the same ids, and others beside them. Left
    out, and logged, are empty responses, truncated ones, and all but one of equal texts.

    Args:
        count: how many different pairs; None is all that there are.
        repeats: a share of them is shown again with its sides swapped, half of all that is shown away from the first.
        how: one of `HOW`, or a function that says of two responses to a prompt whether they may make a pair.
        include_truncated: choose also from responses that the length limit truncated.

    Raises:
        ValueError: fewer pairs than asked for, or none, no such way, or a share that is none.
    """
    fits = _fits(how)
    if (count is not None and count < 1) or not 0 <= repeats <= 1:
        raise ValueError(f"count={count} and repeats={repeats}: ask for one pair or more, and a share from 0 to 1")
    by_prompt, left_out = _by_prompt(candidates, include_truncated)
    prompts = sorted(by_prompt, key=lambda key: _chance(seed, "prompt", key))
    pairs = _in_turn([_pairs_of(by_prompt[key], fits, seed) for key in prompts], count)
    if len(pairs) < (count or 1):
        raise ValueError(
            f"{'' if count is None else f'count={count}: '}{len(by_prompt)} prompts have {len(pairs)} pairs of "
            "different responses"
            + ("" if how == "random" else f" for how={how!r}")
            + (f" (not shown: {left_out})" if left_out else "")
            + (": sample more responses to each prompt" if not pairs else f": ask for {len(pairs)}, or sample more")
            + (", raise max_new_tokens, or take truncated ones (include_truncated)" if "truncated" in left_out else "")
        )
    return _shown(pairs, seed, repeats)


def _fits(how: str | Fits) -> Fits:
    if callable(how):
        return how
    if how not in HOW:
        raise ValueError(f"how={how!r}: no such way to choose pairs{hint(how, HOW)}")
    return HOW[how]


def _chance(seed: int, *what: object) -> float:
    """A number from 0 to 1 that depends on the seed and on this alone."""
    digest = hashlib.blake2b(repr((seed, *what)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _by_prompt(candidates: Iterable[Candidate], include_truncated: bool) -> tuple[dict[str, list[Candidate]], str]:
    """The responses to each prompt that may be shown, each text once; and in words how many may not, and why."""
    texts: dict[str, dict[str, Candidate]] = {}
    left_out: Counter[str] = Counter()
    for candidate in sorted(candidates, key=lambda each: (each.key, fingerprint_of_values(each.record()))):
        text = shown_text(candidate).strip()
        of_prompt = texts.setdefault(candidate.prompt_key, {})
        if not text:
            left_out["empty"] += 1
        elif not (candidate.finished or include_truncated):
            left_out["truncated"] += 1
        elif text in of_prompt:
            left_out["repeated"] += 1
        else:
            of_prompt[text] = candidate
    words = ", ".join(f"{count:,} {why}" for why, count in left_out.items())
    if words:
        logger.info("responses not shown: %s", words)
    return {key: list(found.values()) for key, found in texts.items()}, words


def _pairs_of(candidates: list[Candidate], fits: Fits, seed: int) -> Iterator[tuple[Candidate, Candidate]]:
    """The pairs of a prompt, every candidate in about as many of the first ones as any other."""
    if len(candidates) < 2:
        return
    order = list(candidates)
    random.Random(f"{seed} {candidates[0].prompt_key}").shuffle(order)
    size = len(order)
    for distance in range(1, size // 2 + 1):
        for place in range(size // 2 if 2 * distance == size else size):
            one, other = sorted((order[place], order[(place + distance) % size]), key=candidates.index)
            if fits(one, other):
                yield one, other


def _in_turn(
    prompts: list[Iterator[tuple[Candidate, Candidate]]], count: int | None
) -> list[tuple[Candidate, Candidate]]:
    """One pair of each prompt, then a second one, until there are enough."""
    pairs: list[tuple[Candidate, Candidate]] = []
    while prompts and (count is None or len(pairs) < count):
        left = []
        for prompt in prompts:
            found = next(prompt, None)
            if found is not None and (count is None or len(pairs) < count):
                pairs.append(found)
                left.append(prompt)
        prompts = left
    return pairs


def _shown(pairs: list[tuple[Candidate, Candidate]], seed: int, repeats: float) -> list[LabelPair]:
    """The pairs, and a share of them again, as far apart as the order allows. The first pairs repeat in any count."""
    places: list[tuple[float, LabelPair]] = []
    for number, (first, second) in enumerate(pairs):
        name = fingerprint_of_values([seed, first.record(), second.record()])[:16]
        place, swapped = _chance(seed, "place", name), _chance(seed, "side", name) < 0.5
        places.append((place, LabelPair(_id(seed, name, swapped), name, first, second, swapped)))
        if floor((number + 1) * repeats + 1e-9) > floor(number * repeats + 1e-9):
            again = LabelPair(_id(seed, name, not swapped), name, first, second, not swapped, repeat=True)
            places.append(((place + 0.5) % 1, again))
    return [pair for _, pair in sorted(places, key=lambda placed: placed[0])]


def _id(seed: int, name: str, swapped: bool) -> str:
    """Begins with a letter: spreadsheets turn 12e5 into a number."""
    return f"p{fingerprint_of_values([seed, name, swapped])[:12]}"

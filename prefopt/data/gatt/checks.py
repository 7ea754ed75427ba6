"""Decides whether an answer keeps to an instruction: by its script, its first word, or a word in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping

from .instructions import Constraint, Instruction

Check = Callable[[Constraint, str], bool]
SCRIPTS = {
    "kana": r"[\u3041-\u30ff]",
    "han": r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002fa1f]",
    "hangul": r"[\uac00-\ud7af]+",
    "latin": r"[A-Za-z\u00c0-\u024f]+(?:['’][A-Za-z]+)*",
    "cyrillic": r"[\u0400-\u04ff]+",
    "arabic": r"[\u0600-\u06ff]+",
    "greek": r"[\u0370-\u03ff]+",
    "devanagari": r"[\u0900-\u097f]+",
}
"""Script -> what counts as one word of it. Han characters and kana stand alone."""
_WORDS = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in SCRIPTS.items()))
MOST = 0.5
"""The share of a text's words that are of its script: names and code in other letters do not make another language."""


def script_of(text: str) -> str:
    """The script that more than half of a text's words are of; "" where there is none.

    Han beside a fair share of kana is Japanese: kana are a third of the words or more there.
    """
    counts = Counter(match.lastgroup or "" for match in _WORDS.finditer(text))
    if 3 * counts["kana"] >= counts["kana"] + counts["han"] > 0:
        counts["kana"] += counts.pop("han", 0)
    if not counts.total():
        return ""
    script, most = counts.most_common(1)[0]
    return script if most > MOST * counts.total() else ""


def in_script(constraint: Constraint, answer: str) -> bool:
    """Whether the answer is in the first of the scripts that `accepts` has."""
    return script_of(answer) == constraint.accepts[0]


def mentions(constraint: Constraint, answer: str) -> bool:
    """Whether the answer has one of the words; those in letters as whole words, in any case."""
    return any(re.search(_pattern(word), answer, re.I) for word in constraint.accepts)


def begins(constraint: Constraint, answer: str) -> bool:
    """Whether the answer's first word is one of those, in any case."""
    return any(re.match(_pattern(word), answer.lstrip(), re.I) for word in constraint.accepts)


def _pattern(word: str) -> str:
    before, after = (r"(?<!\w)" if word[0].isascii() else "", r"(?!\w)" if word[-1].isascii() else "")
    return (before if word[0].isalnum() else "") + re.escape(word) + (after if word[-1].isalnum() else "")


CHECKS: Mapping[str, Check] = {
    "language": in_script,
    "hobby": mentions,
    "persona": mentions,
    "word": mentions,
    "opening": begins,
}
"""Kind of constraint -> whether an answer keeps to it, or, where the constraint has a probe, the answer to that."""


def check_for(constraint: Constraint, checks: Mapping[str, Check] | None = None) -> Check:
    """The check of a constraint, one of the caller's first.

    Raises:
        ValueError: nothing decides this kind.
    """
    known = {**CHECKS, **(checks or {})}
    if constraint.kind not in known:
        raise ValueError(
            f"nothing decides whether an answer keeps to a constraint of the kind {constraint.kind!r}: give "
            f"checks={{{constraint.kind!r}: function of (constraint, answer)}}; known are {', '.join(known)}"
        )
    return known[constraint.kind]


def holds(instruction: Instruction, answer: str, checks: Mapping[str, Check] | None = None) -> bool:
    """Whether an answer keeps to all constraints that any answer shows; those with a probe are left out."""
    shown = [constraint for constraint in instruction.constraints if not constraint.probe]
    return all(check_for(constraint, checks)(constraint, answer) for constraint in shown)

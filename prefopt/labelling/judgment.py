"""What somebody said of a pair (`Judgment`), and the words for it in both languages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..grades import GRADES

SIDES = ("a", "b")
CHOICES = (*SIDES, "tie", "both_bad", "skip")
"""What may be said of a pair. A tie is a statement, "both bad" another one; who skips says nothing."""

CHOICE_WORDS: Mapping[str, tuple[str, ...]] = {
    "a": ("a", "left", "甲", "回答a", "左"),
    "b": ("b", "right", "乙", "回答b", "右"),
    "tie": ("tie", "equal", "same", "draw", "平局", "一样好", "一样", "相当"),
    "both_bad": ("both bad", "bothbad", "neither", "both are bad", "都不好", "都差", "两个都不好"),
    "skip": ("skip", "skipped", "跳过"),
}
GRADE_WORDS: Mapping[str, tuple[str, ...]] = {
    "significantly": ("significantly", "significantly better", "明显更好", "明显"),
    "better": ("better", "更好", "较好"),
    "slightly": ("slightly", "slightly better", "略好", "稍好"),
    "negligibly": (
        "negligibly",
        "negligibly better",
        "negligibly better / unsure",
        "unsure",
        "好一点点",
        "好一点点（不确定）",
        "不确定",
    ),
}
"""The first of each is how it is written for people; the others are understood."""
_CHOICE = {word: choice for choice, words in CHOICE_WORDS.items() for word in words}
_GRADE = {word: grade for grade, words in GRADE_WORDS.items() for word in words}
LABELS: Mapping[str, tuple[str, str | None]] = {
    **{f"{side.upper()} {grade}": (side, grade) for side in SIDES for grade in GRADES},
    **{CHOICE_WORDS[choice][0]: (choice, None) for choice in CHOICES[2:]},
}
"""All that can be said of a pair in one word or two, as tools for labelling have it: "A slightly", "tie"."""
STRENGTH = {grade: len(GRADES) - place for place, grade in enumerate(GRADES)}
"""4 for the strongest grade to 1 for the weakest."""


class NotUnderstood(ValueError):
    """Words that are no judgment; the message says which."""


@dataclass(frozen=True)
class Judgment:
    """What somebody said of a pair.

    Args:
        id: of a `LabelPair`.
        annotator: who said it.
        choice: one of `CHOICES`.
        grade: how much better the chosen side is, one of `prefopt.grades.GRADES`; None where nobody was asked.
        note: what else was said, for people.
        time: when, as ISO 8601; None where it is not known.
    """

    id: str
    annotator: str
    choice: str
    grade: str | None = None
    note: str = ""
    time: str | None = None

    def record(self) -> dict[str, Any]:
        """The judgment as a line of a file has it."""
        return asdict(self)


def understood(choice: Any, grade: Any = None, words: Mapping[str, str] | None = None) -> tuple[str, str | None] | None:
    """What the words of a cell mean, as a choice and a grade; None where nothing is said.

    Args:
        choice: "A", "tie", "两个都不好" or, in one, "A slightly better".
        grade: one of `GRADE_WORDS`, if it stands apart.
        words: what other labels stand for, in words of `LABELS`: {"7": "B slightly"}.

    Raises:
        NotUnderstood: other words, a grade without a side, or two grades.
    """
    said, graded = _plain(choice), _plain(grade)
    other = {_plain(word): _plain(meaning) for word, meaning in (words or {}).items()}
    said, graded = other.get(said, said), other.get(graded, graded)
    if not said:
        if graded:
            raise NotUnderstood(f"a grade, {grade!r}, and no choice")
        return None
    side, found = _split(said, choice)
    if graded:
        if graded not in _GRADE:
            raise NotUnderstood(f"the grade {grade!r} is not one of {', '.join(GRADES)}")
        if found and found != _GRADE[graded]:
            raise NotUnderstood(f"two grades, {choice!r} and {grade!r}")
        found = _GRADE[graded]
    if found and side not in SIDES:
        raise NotUnderstood(f"a grade, {grade!r}, for {choice!r}, which prefers neither side")
    return side, found


def check_words(words: Mapping[str, str] | None) -> None:
    """Check that what other labels are said to mean is itself understood, as a choice or as a grade.

    Raises:
        NotUnderstood: a meaning is neither.
    """
    for meaning in (words or {}).values():
        if _plain(meaning) not in _GRADE:
            understood(meaning)


def _plain(value: Any) -> str:
    text = "" if value is None else str(value)
    return re.sub(r"[\s_:：\-]+", " ", text).strip().lower()


def _split(said: str, given: Any) -> tuple[str, str | None]:
    """The choice in words that may begin with a side and end with a grade."""
    if said in _CHOICE:
        return _CHOICE[said], None
    match = re.fullmatch(r"(?:回答 ?)?([ab])(?: is)? ?(.+)", said)
    if match and match[2] in _GRADE:
        return match[1], _GRADE[match[2]]
    raise NotUnderstood(f"{given!r} is none of {', '.join(['A', 'B', *LABELS])}")

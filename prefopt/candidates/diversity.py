"""How different the responses to a prompt are (`distinct`), and which only repeat themselves (`degenerate`).

Texts are compared in units: words, and single characters of Chinese and Japanese, which put no spaces between words.
Other scripts without spaces, such as Thai, count whole stretches as words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

_CHARACTER_UNITS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNIT = re.compile(rf"[{_CHARACTER_UNITS}]|[^\W{_CHARACTER_UNITS}]+|[^\w\s]")
WINDOW = 8
"""Characters: longer than what ordinary text says again and again, shorter than the sentences that a loop repeats."""
SHORT = 2 * WINDOW
END = ""
"""Stands after the last unit: so a response of one word has a bigram too."""


def units(text: str) -> list[str]:
    """Words, punctuation marks, and single Chinese and Japanese characters."""
    return _UNIT.findall(text)


def distinct(responses: Sequence[str], n: int) -> float:
    """The share of the responses' n-grams of units that are different (distinct-n, Li et al., arXiv:1510.03055).

    In [0, 1]; 0 if they say nothing. It falls with the number and the length of responses: compare equal numbers.
    """
    grams = list(chain.from_iterable(_grams(units(response), n) for response in responses))
    return len(set(grams)) / len(grams) if grams else 0.0


def _grams(words: list[str], n: int) -> list[tuple[str, ...]]:
    ended = [*words, *[END] * (n - 1)] if words else []
    return [tuple(ended[i : i + n]) for i in range(len(ended) - n + 1)]


def degenerate(response: str) -> bool:
    """Whether a response is blank, or says more than half of what it says a second time.

    The second means that fewer than half of its windows of 8 characters are different (spaces in a row count as one).
    A response shorter than 16 characters has too few of them to tell.
    """
    text = " ".join(response.split())
    if len(text) < SHORT:
        return not text
    windows = [text[i : i + WINDOW] for i in range(len(text) - WINDOW + 1)]
    return len(set(windows)) < len(windows) / 2


@dataclass(frozen=True)
class Quality:
    """What scores do not say of responses.

    Args:
        truncated: the share of all that the length limit cut off.
        degenerate: the share of all that are, see the function of that name.
        distinct_1, distinct_2: `distinct` of the responses to a prompt, its mean over prompts.
    """

    truncated: float
    degenerate: float
    distinct_1: float
    distinct_2: float


def quality(responses: Sequence[Sequence[str]], finished: Sequence[Sequence[bool]]) -> Quality:
    """The quality of responses. responses, finished: a row for each prompt."""
    texts, ended = list(chain.from_iterable(responses)), list(chain.from_iterable(finished))
    means = (sum(distinct(row, n) for row in responses) / len(responses) for n in (1, 2))
    return Quality(1 - sum(ended) / len(ended), sum(map(degenerate, texts)) / len(texts), *means)


@dataclass(frozen=True)
class Guards:
    """Limits that the responses of a temperature must keep to, however high the best of them score.

    Args:
        max_truncated, max_degenerate: the largest share of responses that may be.
        min_distinct: the least `distinct_2`. It depends on the number and the length of responses, and short right
            answers are rightly alike: 0 asks for nothing.
    """

    max_truncated: float = 0.5
    max_degenerate: float = 0.2
    min_distinct: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} is a share: give a number from 0 to 1")

    def broken(self, quality: Quality) -> tuple[str, ...]:
        """Which limits responses of this quality break, in words; none if all is well."""
        limits = (
            ("truncated", quality.truncated, self.max_truncated),
            ("blank or repeating themselves", quality.degenerate, self.max_degenerate),
        )
        reasons = [f"{share:.1%} are {what}, above {most:.1%}" for what, share, most in limits if share > most]
        if quality.distinct_2 < self.min_distinct:
            reasons.append(f"distinct-2 is {quality.distinct_2:.3f}, below {self.min_distinct:.3f}")
        return tuple(reasons)

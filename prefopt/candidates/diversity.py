"""How different the responses to a prompt are, and which go round in circles. Text only, with or without spaces.

Units are words, and single characters of Chinese and Japanese, which put no spaces between words. Other scripts
without spaces, such as Thai, count whole stretches as words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNIT = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+|[^\w\s]")
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
    """Whether it is blank, or says more than half of what it says a second time.

    The latter means that fewer than half of its windows of 8 characters are different (spaces in a row count as one).
    A response shorter than 16 characters has too few of them to tell.
    """
    text = " ".join(response.split())
    if len(text) < SHORT:
        return not text
    windows = [text[i : i + WINDOW] for i in range(len(text) - WINDOW + 1)]
    return len(set(windows)) < len(windows) / 2


@dataclass(frozen=True)
class Quality:
    """What scores do not say of responses: shares of all of them, and `distinct` of a prompt's, its mean over prompts.

    Args:
        unfinished: cut off by the length limit.
        degenerate: see the function of that name.
    """

    unfinished: float
    degenerate: float
    distinct_1: float
    distinct_2: float


def quality(responses: Sequence[Sequence[str]], finished: Sequence[Sequence[bool]]) -> Quality:
    """responses, finished: a row for each prompt."""
    texts, ended = list(chain.from_iterable(responses)), list(chain.from_iterable(finished))
    means = (sum(distinct(row, n) for row in responses) / len(responses) for n in (1, 2))
    return Quality(1 - sum(ended) / len(ended), sum(map(degenerate, texts)) / len(texts), *means)


@dataclass(frozen=True)
class Guards:
    """What responses must keep to, however high the best of them score.

    Args:
        min_distinct: the least `distinct_2`. It depends on the number and the length of responses, and short right
            answers are rightly alike: 0 asks for nothing.
    """

    max_unfinished: float = 0.5
    max_degenerate: float = 0.2
    min_distinct: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} is a share: give a number from 0 to 1")

    def broken(self, found: Quality) -> tuple[str, ...]:
        """What is wrong, in words; nothing if all is well."""
        limits = (
            ("unfinished", found.unfinished, self.max_unfinished),
            ("blank or repeating themselves", found.degenerate, self.max_degenerate),
        )
        reasons = [f"{share:.1%} are {what}, above {most:.1%}" for what, share, most in limits if share > most]
        if found.distinct_2 < self.min_distinct:
            reasons.append(f"distinct-2 is {found.distinct_2:.3f}, below {self.min_distinct:.3f}")
        return tuple(reasons)

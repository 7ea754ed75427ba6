"""Somebody's code asked about many rows, of which some may fail. Knows rows and numbers, not what they are about."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

logger = logging.getLogger(__name__)


class Asked(NamedTuple):
    """What was said to each question, or NaN, and then why there is no answer."""

    values: list[float]
    errors: list[str]


def as_far_as_it_goes(judge: Callable[[Sequence[int]], Sequence[float]], count: int, name: str) -> Asked:
    """Of all rows at once; where that fails one by one, so that a row that cannot be judged costs itself alone."""
    if not count:
        return Asked([], [])
    try:
        return Asked(list(judge(range(count))), [""] * count)
    except Exception as error:  # of somebody's code: whatever it raises is why there is no judgement
        logger.warning("%s fails on %d rows at once and is asked one by one: %s", name, count, _reason(error))
    values, errors = zip(*(_alone(judge, number) for number in range(count)), strict=True)
    return Asked(list(values), list(errors))


def _alone(judge: Callable[[Sequence[int]], Sequence[float]], number: int) -> tuple[float, str]:
    try:
        return judge([number])[0], ""
    except Exception as error:
        return math.nan, _reason(error)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]

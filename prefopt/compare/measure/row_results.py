"""Calls a user's code on many rows, so that a row on which it fails costs no other row its result."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

logger = logging.getLogger(__name__)


class RowResults(NamedTuple):
    """The value of each row, NaN where there is none, and why there is none, "" where there is one."""

    values: list[float]
    errors: list[str]


def evaluate_rows(function: Callable[[Sequence[int]], Sequence[float]], count: int, name: str) -> RowResults:
    """Call a function on all rows at once and, where that fails, on one row at a time.

    Args:
        function: numbers of rows -> a value for each; it may raise anything.
        count: how many rows there are.
        name: of the function, for the log.
    """
    if not count:
        return RowResults([], [])
    try:
        return RowResults(list(function(range(count))), [""] * count)
    except Exception as error:  # whatever the user's code raises is why there is no value
        logger.warning("%s fails on %d rows at once and is called on one by one: %s", name, count, _reason(error))
    values, errors = zip(*(_evaluate_row(function, number) for number in range(count)), strict=True)
    return RowResults(list(values), list(errors))


def _evaluate_row(function: Callable[[Sequence[int]], Sequence[float]], number: int) -> tuple[float, str]:
    try:
        return function([number])[0], ""
    except Exception as error:
        return math.nan, _reason(error)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]

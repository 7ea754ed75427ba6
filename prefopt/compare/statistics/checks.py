"""Is this an array that statistics can be made of? Errors in plain words; it knows no test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

ROUNDING = 1e-12
"""Of the largest number: what differs by less is equal but for its rounding."""


def numbers(values: Any, what: str, *, axes: int = 1) -> np.ndarray:
    """The values as float64, once they are known to be finite and to have so many axes.

    Raises:
        ValueError: they are not.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != axes:
        wanted = {1: "[prompts]", 2: "[seeds, prompts]"}[axes]
        raise ValueError(f"{what}: given an array of shape {array.shape}, and {wanted} is needed")
    if not np.isfinite(array).all():
        place = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(f"{what}: {array[tuple(place)]} at {', '.join(map(str, place))} is no finite number")
    return array


def aligned(first: Any, second: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Two vectors whose rows belong together: [n], [n].

    Raises:
        ValueError: they are not as long as each other, or hold what is no number.
    """
    a, b = numbers(first, f"{what} of the first"), numbers(second, f"{what} of the second")
    if len(a) != len(b):
        raise ValueError(f"{what}: {len(a)} of the first, {len(b)} of the second: rows are compared in pairs")
    return a, b


def apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The first less the second, 0 where they differ by rounding alone.

    Gains over the same SFT policy, or means of the same responses, may differ in the last digit; a test of signs or
    ranks would take that for a difference.
    """
    differences = first - second
    return np.where(np.abs(differences) <= ROUNDING * np.maximum(np.abs(first), np.abs(second)), 0.0, differences)


def several(count: int, what: str = "prompt") -> None:
    """Raises: ValueError: fewer than two have no spread."""
    if count < 2:
        raise ValueError(f"{count} {what}: how much {what}s differ is only seen with two or more of them")


def constant(values: np.ndarray) -> bool:
    """Whether all the numbers are the same but for their rounding."""
    return bool(np.ptp(values) <= ROUNDING * np.abs(values).max(initial=0.0))


def tables(gains: Mapping[str, Any], *, paired_seeds: bool) -> dict[str, np.ndarray]:
    """[seeds, prompts] of each method, checked to go together.

    Raises:
        ValueError: fewer than two methods, or their seeds or prompts do not match.
    """
    if len(gains) < 2:
        raise ValueError(f"given the methods {sorted(gains)}: a comparison needs two or more")
    checked = {name: numbers(table, f"gains of {name!r}", axes=2) for name, table in gains.items()}
    (first, table), *others = checked.items()
    several(table.shape[1])
    for name, other in others:
        if other.shape[1] != table.shape[1] or (paired_seeds and other.shape != table.shape):
            raise ValueError(
                f"{first!r} has gains of shape {table.shape}, {name!r} of {other.shape}: [seeds, prompts] must be the "
                "same for both; only the seeds may differ, with paired_seeds=False"
            )
    return checked

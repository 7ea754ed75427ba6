"""Whose turn it is: an endless shuffle, in which all have their turn before any has its second. Numbers only."""

from __future__ import annotations

import random


def turns(places: range, count: int, seed: int) -> list[int]:
    """The numbers below `count` that stand at these places of an endless shuffle, which begins anew every `count`.

    What stands at a place depends on the seed and the place alone, so that parts of a run agree without being told.
    """
    orders = {epoch: _shuffled(count, f"{seed} {epoch}") for epoch in {place // count for place in places}}
    return [orders[place // count][place % count] for place in places]


def _shuffled(count: int, seed: str) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order

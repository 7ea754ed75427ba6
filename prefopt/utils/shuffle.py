"""An endless shuffle: all numbers come once, in a random order, before any comes a second time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from .renamed import renamed


def shuffled(places: range, count: int, seed: int) -> list[int]:
    """The numbers below `count` that stand at these places of an endless shuffle, which begins anew every `count`.

    What stands at a place depends on the seed and the place alone: processes that share a shuffle, and a run that goes
    on, agree on it without being told. So are the prompts of an iteration chosen, and those of a rollout.

    Args:
        places: positions in the shuffle, from 0.
        count: how many numbers are shuffled.
        seed: another one shuffles otherwise.
    """
    orders = {epoch: _order(count, f"{seed} {epoch}") for epoch in {place // count for place in places}}
    return [orders[place // count][place % count] for place in places]


def _order(count: int, seed: str) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"turns": "shuffled"})

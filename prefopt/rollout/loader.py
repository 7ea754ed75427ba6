"""Rollouts dealt out in micro-batches, each rollout made when its first one is asked for. Knows batches, no model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import torch

from ..batch import Batch


@dataclass(frozen=True)
class RolloutLoader:
    """What a training loop iterates over, on policy: micro-batches of rollouts, one optimizer step after the other.

    A rollout is made when the step that needs it asks for it, so that it is drawn from the policy as it is then, and
    neither a step earlier nor twice: accelerate must not wrap this loader, since it fetches one batch ahead. Where a
    run goes on is `first`, asked at each start: resuming skips no batches, it begins at another rollout.

    Args:
        make: the number of a rollout, from 0 -> its rows on this rank, every rank as many.
        rollouts: how many there are.
        first: the number of the one to begin with.
        epochs: how often each rollout is gone through.
        mini_batches: into how many optimizer steps each time.
        micro_batch: prompts at a time.
        seed: of the order of rows, another one in each epoch of each rollout.
    """

    make: Callable[[int], Batch]
    rollouts: int
    first: Callable[[], int]
    epochs: int
    mini_batches: int
    micro_batch: int
    seed: int

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.first(), self.rollouts):
            rollout = self.make(number)
            yield from chain.from_iterable(self._epoch(rollout, number, epoch) for epoch in range(self.epochs))

    def _epoch(self, rollout: Batch, number: int, epoch: int) -> Iterator[Batch]:
        count = len(rollout.prompt_ids)
        step = count // self.mini_batches
        if step * self.mini_batches != count or step % self.micro_batch:
            raise ValueError(
                f"rollout {number} has {count} prompts, which {self.mini_batches} steps of micro-batches of "
                f"{self.micro_batch} cannot share: make it a multiple of {self.mini_batches * self.micro_batch}"
            )
        order = list(range(count))
        random.Random(f"{self.seed} {number} {epoch}").shuffle(order)
        for start in range(0, count, self.micro_batch):
            yield rollout.rows(torch.tensor(order[start : start + self.micro_batch]))

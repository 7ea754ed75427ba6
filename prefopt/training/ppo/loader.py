"""Rollouts dealt out in micro-batches, each rollout made when its first one is asked for. Knows batches, no model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from ...batch import Batch, join
from ...utils.distributed import rank, world_size


@dataclass(frozen=True)
class RolloutLoader:
    """What a training loop iterates over, on policy: micro-batches of rollouts, one optimizer step after the other.

    A rollout is made when the step that needs it asks for it, so that it is drawn from the policy as it is then, and
    neither a step earlier nor twice: accelerate must not wrap this loader, since it fetches one batch ahead. Going
    through it once is one pass over the prompts, whose last rollout begins the next. Where it begins is decided at each
    start: a resumed run skips no batches, it begins at another rollout.

    Every process holds whole rollouts and deals out its own share of each step, so that the rows of a step are the
    same however many processes and micro-batches it is split into.

    Args:
        make: the number of a rollout, from 0 -> all its rows; or several batches of as many rows, which go together.
        prompts: how many there are to have their turn.
        done: how many optimizer steps there were.
        epochs: how often each rollout is gone through.
        mini_batches: into how many optimizer steps each time.
        micro_batch: prompts at a time, in one process.
        accumulation: micro-batches of a step, in one process.
        seed: of the order of rows, another one in each epoch of each rollout.
    """

    make: Callable[[int], Sequence[Batch]]
    prompts: int
    done: Callable[[], int]
    epochs: int
    mini_batches: int
    micro_batch: int
    accumulation: int
    seed: int
    rank: int = field(default_factory=rank)
    world_size: int = field(default_factory=world_size)

    @property
    def size(self) -> int:
        """Prompts of a rollout."""
        return self.mini_batches * self.world_size * self.micro_batch * self.accumulation

    @property
    def steps(self) -> int:
        """Optimizer steps that a rollout is learnt from in."""
        return self.epochs * self.mini_batches

    @property
    def rollouts(self) -> int:
        """Of a pass."""
        return -(-self.prompts // self.size)

    @property
    def first(self) -> int:
        """The rollout to begin with.

        Raises:
            ValueError: steps were done that a rollout has only some of.
        """
        number, begun = divmod(self.done(), self.steps)
        if begun:
            raise ValueError(
                f"step {self.done()} lies within a rollout, from which {self.steps} steps are learnt: go on from a "
                f"checkpoint after step {number * self.steps}, such as are written during training"
            )
        return number

    def __len__(self) -> int:
        """Micro-batches of a pass, in one process."""
        return self.rollouts * self.steps * self.accumulation

    def __iter__(self) -> Iterator[Batch]:
        first = self.first
        for number in range(first, (first // self.rollouts + 1) * self.rollouts):
            parts = self.make(number)
            for epoch in range(self.epochs):
                for rows in self._shares(number, epoch):
                    yield join([part.rows(rows).trimmed() for part in parts])

    def _shares(self, number: int, epoch: int) -> Iterator[torch.Tensor]:
        """Row numbers of each of this process's micro-batches."""
        order = list(range(self.size))
        random.Random(f"{self.seed} {number} {epoch}").shuffle(order)
        step = self.size // self.mini_batches
        for start in range(0, self.size, step):
            mine = torch.tensor(order[start : start + step][self.rank :: self.world_size])
            yield from mine.split(self.micro_batch)

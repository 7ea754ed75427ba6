"""How rollouts are dealt out in micro-batches. Knows batches and numbers of steps, no model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from ...batch import Batch, join
from ...utils.distributed import rank, world_size


@dataclass(frozen=True)
class Minibatches:
    """Which rollouts are left to collect, and the micro-batches of each, one optimizer step after the other.

    Every process holds whole rollouts and deals out its own share of each step, so that the rows of a step are the
    same however many processes and micro-batches it is split into.

    Args:
        prompts: how many there are; in a pass each has its turn, and the pass's last rollout begins the next.
        done: how many optimizer steps there were.
        epochs: how often each rollout is gone through.
        mini_batches: into how many optimizer steps each time.
        micro_batch: prompts at a time, in one process.
        accumulation: micro-batches of a step, in one process.
        seed: of the order of rows, another one in each epoch of each rollout.
    """

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

    def remaining(self) -> range:
        """The numbers of the rollouts that are left of this pass; a resumed run begins at another one."""
        first = self.first
        return range(first, (first // self.rollouts + 1) * self.rollouts)

    def of(self, number: int, batches: Sequence[Batch]) -> Iterator[Batch]:
        """This process's micro-batches of a rollout.

        Args:
            batches: all its rows; of several batches those with the same number go together.
        """
        for epoch in range(self.epochs):
            for rows in self._shares(number, epoch):
                yield join([batch.rows(rows).trimmed() for batch in batches])

    def _shares(self, number: int, epoch: int) -> Iterator[torch.Tensor]:
        """Row numbers of each of this process's micro-batches."""
        order = list(range(self.size))
        random.Random(f"{self.seed} {number} {epoch}").shuffle(order)
        step = self.size // self.mini_batches
        for start in range(0, self.size, step):
            mine = torch.tensor(order[start : start + step][self.rank :: self.world_size])
            yield from mine.split(self.micro_batch)

"""PPO's loop: collect a rollout, log it, learn from it, and again.

transformers' Trainer drives it, since it knows how to accumulate, resume and call back: each micro-batch that the loop
yields goes through one forward and backward pass there, and after the last of a mini-batch the optimizer takes a step.
A rollout is collected when the step that needs it asks for it, so that it is sampled from the policy as it is then.
accelerate must not wrap the loop, since it would fetch one batch ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ...batch import Batch
from .minibatches import Minibatches
from .rollout import Rollout


@dataclass(frozen=True)
class RolloutLoop:
    """One pass over the prompts; Trainer goes through it once an epoch.

    Args:
        minibatches: which rollouts are left, and how each is dealt out.
        collect: the number of a rollout -> the rollout, sampled, scored, measured and rewarded; changes nothing.
        log: writes a rollout down and makes its state the objective's; whether training goes on.
    """

    minibatches: Minibatches
    collect: Callable[[int], Rollout]
    log: Callable[[Rollout], bool]

    def __iter__(self) -> Iterator[Batch]:
        for number in self.minibatches.remaining():
            rollout = self.collect(number)
            if not self.log(rollout):
                return
            yield from self.minibatches.of(number, rollout.batches)

    def __len__(self) -> int:
        """Micro-batches of a pass, in one process."""
        return len(self.minibatches)

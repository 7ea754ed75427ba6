"""A micro-batch for which memory has no room is computed in parts, to the same gradients.

Losses are sums over rows, divided by what the whole step holds, so the parts of a micro-batch add up to it. A backward
pass that ends halfway has added to some gradients already, and what it added cannot be told from what was there: all
gradients of the step are dropped, and its micro-batches up to this one are computed again. That takes the time of one
step, once for each size that did not fit, and no memory: nothing is kept for it while all goes well.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from accelerate.utils.memory import clear_device_cache
from torch import Tensor
from transformers import TrainingArguments

from ..batch import Batch, Outputs
from ..data.batching import split_by_tokens

logger = logging.getLogger(__name__)

IN_PARTS = "micro_batches_in_parts"
TEXTS = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What errors of other kinds say where memory has run out."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in TEXTS)


def token_costs(batch: Batch) -> Tensor:
    """Tokens of each row, those of its prompt once: [G]"""
    return batch.prompt_mask.sum(-1) + batch.response_mask.flatten(1).sum(-1)


class Room:
    """How many tokens fit into memory at a time, as far as that was found out.

    Args:
        doing: what they fit in for, as a message says it.
        recovers: whether a batch may be taken apart. Where processes work together each has to run its models as often
            as the others.
        passes_on: the error goes on, to who takes smaller batches then.
    """

    def __init__(self, doing: str, *, recovers: bool = True, passes_on: bool = False):
        self.doing, self.recovers, self.passes_on = doing, recovers, passes_on
        self.tokens: int | None = None
        """At most so many at a time; None while everything did fit."""
        self.split = 0
        """Batches that were taken apart."""

    def parts(self, batch: Batch) -> list[Batch]:
        """The rows of a batch in as many parts as room for them takes; their widths stay those of the batch."""
        if self.tokens is None:
            return [batch]
        numbers = split_by_tokens(range(len(batch.index)), token_costs(batch), self.tokens)
        return [batch.rows(slice(rows[0], rows[-1] + 1)) for rows in numbers] if len(numbers) > 1 else [batch]

    def shrink(self, batch: Batch, where: str, remedy: Callable[[], str]) -> None:
        """Take note that a batch did not fit.

        Args:
            where: the step, as a message begins with it.
            remedy: says what would make it fit.

        Raises:
            MemoryError: it cannot be taken apart.
        """
        costs, numbers = token_costs(batch), [number for number in batch.index.tolist() if number >= 0]
        tokens = int(costs.sum())
        if not self.recovers:
            raise MemoryError(
                f"{where}: memory has no room to {self.doing} {len(numbers)} rows of {tokens:,} tokens at a time, and "
                f"a batch is not taken apart where several processes work together, or the optimizer works within the "
                f"backward pass. What helps: a smaller per_device_train_batch_size or max_tokens_per_batch, {remedy()}"
            )
        if (costs > 0).sum() <= 1:
            name = numbers[0] if numbers else -1
            longest = int(batch.response_mask.sum(-1).max())
            raise MemoryError(
                f"{where}: memory has no room to {self.doing} row {name} alone, which has {tokens:,} tokens (prompt "
                f"{int(batch.prompt_mask.sum()):,}, longest response {longest:,}). What helps: a smaller max_length, "
                f"{remedy()}"
            )
        self.tokens = -(-tokens // 2)  # less than these rows have together, so that they are parted
        logger.warning(
            "%s: memory had no room to %s %d rows of %s tokens at a time. From now on it is done in parts of at most "
            "%s tokens, which add up to the same, and the step goes on; a smaller per_device_train_batch_size with "
            "more gradient_accumulation_steps would not have to find that out",
            *(where, self.doing, len(numbers), f"{tokens:,}", f"{self.tokens:,}"),
        )

    def without_gradient(
        self, batch: Batch, run: Callable[[Batch], Outputs], where: str, remedy: Callable[[], str]
    ) -> Outputs:
        """What a model says of a batch, of which no gradient is taken.

        Args:
            run: runs it on a batch, or on part of one.
            where, remedy: as of `shrink`.
        """
        while True:
            parts, outs = self.parts(batch), []
            failed: Batch | None = None
            for part in parts:
                try:
                    outs.append(run(part))
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    failed = part
                    break
            if failed is None:
                return joined(outs)
            outs.clear()
            release()
            self.shrink(failed, where, remedy)


def joined(parts: list[Outputs]) -> Outputs:
    """The outputs on all rows of several batches of the same width, in their order."""
    if len(parts) == 1:
        return parts[0]
    names = [name for name, value in vars(parts[0]).items() if value is not None]
    return Outputs(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def release() -> None:
    """Give back what no one refers to any more."""
    clear_device_cache(garbage_collection=True)


def recovers(accelerator: Accelerator, args: TrainingArguments) -> bool:
    """Whether a micro-batch can be computed in parts.

    Not where several processes wait for one another in each pass, nor under an engine that keeps gradients of its own;
    and not where weights move within the backward pass, as with LOMO and with optimizers that are named layerwise.
    """
    optimizer = str(getattr(args.optim, "value", args.optim))
    engine = accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP)
    alone = accelerator.num_processes == 1 and not engine
    return alone and "layerwise" not in optimizer and "lomo" not in optimizer


def room_for_steps(accelerator: Accelerator, args: TrainingArguments) -> Room:
    """The room of a training's steps; `auto_find_batch_size` has its own way where a batch is not taken apart."""
    possible = recovers(accelerator, args)
    return Room("compute the gradients of", recovers=possible, passes_on=args.auto_find_batch_size and not possible)


class StepRecovery:
    """Computes the gradients of a step, micro-batch by micro-batch, in parts where memory has no room for more.

    Args:
        step: the `StepRunner` whose notes of the step are taken back with its gradients.
        room: what was found out about memory.
        drop: sets all gradients to None.
        where, remedy: as of `Room.shrink`.
    """

    def __init__(
        self, step: Any, room: Room, drop: Callable[[], None], where: Callable[[], str], remedy: Callable[[], str]
    ):
        self.step, self.room, self.drop, self.where, self.remedy = step, room, drop, where, remedy
        self._done: list[Batch] = []
        self._split_before = 0

    def begin(self) -> None:
        """A step begins, and no weight has a gradient."""
        self._done, self._split_before = [], self.room.split

    def run(self, model: Any, batch: Batch, compute: Callable[[Batch], Tensor]) -> Tensor:
        """The loss of one micro-batch, whose gradient is added to that of those before it.

        Args:
            model: as the trainer wraps it.
            compute: runs forward and backward pass on a batch, or on part of one, and returns its loss.

        Raises:
            MemoryError: a row does not fit alone.
        """
        before, again = self.step.noted(), False
        while True:
            try:
                if again:
                    for earlier in self._done:
                        self._in_parts(model, earlier, compute)
                    self.step.back_to(before)  # which has counted them already
                loss = self._in_parts(model, batch, compute)
            except _Failed as failure:
                part = failure.part
            else:
                self._done.append(batch)
                return loss
            self.step.back_to(before)
            self.room.split = self._split_before  # what is computed again is counted again
            self.drop()
            release()
            self.room.shrink(part, self.where(), self.remedy)
            again = True

    def metrics(self) -> dict[str, float]:
        """How many micro-batches were computed in parts, as a metric of the training; of none, nothing."""
        return {IN_PARTS: float(self.room.split)} if self.room.split else {}

    def _in_parts(self, model: Any, batch: Batch, compute: Callable[[Batch], Tensor]) -> Tensor:
        parts = [batch] if not self.room.recovers else self.room.parts(batch)
        if len(parts) > 1:
            self.room.split += 1
            parts = [part.trimmed() for part in self.step.complete(model, parts)]
        return torch.stack([self._tried(part, compute) for part in parts]).sum()

    def _tried(self, part: Batch, compute: Callable[[Batch], Tensor]) -> Tensor:
        try:
            return compute(part)
        except RuntimeError as error:
            if not is_out_of_memory(error) or self.room.passes_on:
                raise
        # Outside of the handler: the error holds on to every tensor of the pass that failed.
        raise _Failed(part)


class _Failed(Exception):
    """Memory had no room for this part of a micro-batch."""

    def __init__(self, part: Batch):
        super().__init__()
        self.part = part

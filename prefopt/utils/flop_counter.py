"""Counts the floating-point operations and tokens that models compute, by scope: training, generation, scoring, ...

    with count_flops() as counter:
        trainer.train()
    counter.flops, counter.tokens        # {"training": 1.2e15, "reference": ...}, {"training": 40960, ...}

Wherever prefopt runs a model it reports the FLOPs of that pass here; `models/flops.py` has the formula. A process
counts what it computes itself, and nothing of other processes. While nobody counts, a pass costs one look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .renamed import renamed


@dataclass
class FlopCounter:
    """FLOPs and tokens so far, by scope.

    ============ =======================================================================================================
    "training"   passes that have a gradient, forward and backward
    "generation" prompts, and the responses that are sampled from a policy or found by beam search
    "scoring"    passes of a reward model
    "reference"  passes of the policy that log-ratios are taken against
    "other"      passes without a gradient outside of any scope
    ============ =======================================================================================================

    and every other name that `scope` was given.

    Args:
        flops: floating-point operations.
        tokens: tokens fed to a model, padding among them; a token that is fed twice counts twice.
        keep: is told of each file that is about to hold what came of all that was counted so far, and how many bytes
            it will have then: a process that goes on after a kill knows by that whether it is there.
    """

    flops: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    keep: Callable[[Path, int], None] | None = None

    def add(self, scope: str, flops: float, tokens: int) -> None:
        """Count one pass of a model."""
        self.flops[scope] = self.flops.get(scope, 0.0) + flops
        self.tokens[scope] = self.tokens.get(scope, 0) + tokens

    def restore(self, flops: Mapping[str, float], tokens: Mapping[str, int]) -> None:
        """Replace the counts by earlier ones, as when a run is resumed, and go on counting from there."""
        self.flops, self.tokens = dict(flops), dict(tokens)

    @property
    def total(self) -> float:
        """FLOPs of all scopes together."""
        return sum(self.flops.values())


_counters: ContextVar[tuple[FlopCounter, ...]] = ContextVar("counters", default=())
_scope: ContextVar[str | None] = ContextVar("scope", default=None)


@contextmanager
def count_flops(counter: FlopCounter | None = None) -> Iterator[FlopCounter]:
    """Count what models compute inside the block. Blocks may be nested: each counts all that is inside it.

    Args:
        counter: goes on from what it holds; by default a new one.
    """
    counter = FlopCounter() if counter is None else counter
    token = _counters.set((*_counters.get(), counter))
    try:
        yield counter
    finally:
        _counters.reset(token)


@contextmanager
def paused() -> Iterator[None]:
    """Count nothing inside the block, for measurements that are no part of what is being counted."""
    token = _counters.set(())
    try:
        yield
    finally:
        _counters.reset(token)


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Count all passes inside the block under this name.

    The outermost scope wins: what is sampled and scored while hyperparameters are tried counts as "trials", and not as
    generation and scoring.
    """
    token = _scope.set(_scope.get() or name)
    try:
        yield
    finally:
        _scope.reset(token)


def is_counting() -> bool:
    """Whether anybody counts. Ask before computing anything that only `add` needs."""
    return bool(_counters.get())


def add(default_scope: str, flops: float, tokens: int) -> None:
    """Report one pass of a model to every counter.

    Args:
        default_scope: what the pass counts as outside of any `scope`.
    """
    name = _scope.get() or default_scope
    for counter in _counters.get():
        counter.add(name, flops, tokens)


def about_to_keep(path: Path, size: int) -> None:
    """Tell every counter that a file is about to have `size` bytes, by what was counted so far."""
    for counter in _counters.get():
        if counter.keep is not None:
            counter.keep(path, size)


if not TYPE_CHECKING:
    __getattr__ = renamed(
        __name__,
        {"Tally": "FlopCounter", "counting": "count_flops", "purpose": "scope", "listening": "is_counting"},
    )

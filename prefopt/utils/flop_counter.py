"""What is computed, added up by purpose while somebody counts. Knows numbers and names, not what a model is.

    with counting() as tally:
        trainer.train()
    tally.flops, tally.tokens        # {"training": 1.2e15, "reference": ...}, {"training": 40960, ...}

FLOPs are counted by formula (`models/work.py`), where a model is run. What this process computes is counted here and
no other's; when nobody counts, asking so is all that is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What was computed so far, by purpose.

    ============ =======================================================================================================
    "training"   passes that have a gradient, forward and backward
    "generation" prompts and the responses that a policy draws or searches
    "scoring"    by a reward model
    "reference"  of the policy that log-ratios are taken against
    "other"      passes without a gradient and without a label
    ============ =======================================================================================================

    and what `purpose` was given.

    Args:
        flops: floating-point operations.
        tokens: those that were fed to a model, padding among them, each time anew.
    """

    flops: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    def add(self, purpose: str, flops: float, tokens: int) -> None:
        self.flops[purpose] = self.flops.get(purpose, 0.0) + flops
        self.tokens[purpose] = self.tokens.get(purpose, 0) + tokens

    def restore(self, flops: Mapping[str, float], tokens: Mapping[str, int]) -> None:
        """Go on from these numbers, and forget what is here."""
        self.flops, self.tokens = dict(flops), dict(tokens)

    @property
    def total(self) -> float:
        """FLOPs for all purposes."""
        return sum(self.flops.values())


_counting: ContextVar[tuple[Tally, ...]] = ContextVar("counting", default=())
_label: ContextVar[str | None] = ContextVar("label", default=None)


@contextmanager
def counting(tally: Tally | None = None) -> Iterator[Tally]:
    """Count what is computed inside, into a new tally or this one. Of nested ones each counts."""
    tally = Tally() if tally is None else tally
    token = _counting.set((*_counting.get(), tally))
    try:
        yield tally
    finally:
        _counting.reset(token)


@contextmanager
def paused() -> Iterator[None]:
    """What is computed inside, by one who only watches, is not counted by anyone who counts around it."""
    token = _counting.set(())
    try:
        yield
    finally:
        _counting.reset(token)


@contextmanager
def purpose(name: str) -> Iterator[None]:
    """All that is computed inside is counted as this.

    The outermost label stands: what is drawn and scored for a trial is a trial's, not generation and scoring.
    """
    token = _label.set(_label.get() or name)
    try:
        yield
    finally:
        _label.reset(token)


def listening() -> bool:
    """Does anybody count? To be asked before anything is computed for `add`."""
    return bool(_counting.get())


def add(kind: str, flops: float, tokens: int) -> None:
    """Tell all who count. `kind`: the purpose where no label was given."""
    name = _label.get() or kind
    for tally in _counting.get():
        tally.add(name, flops, tokens)

"""Steps whose gradient is not finite: skipped, counted, after a few in a row the end of the run. Touches no weight."""

from __future__ import annotations

import logging
from typing import Any

import torch
from accelerate.utils import gather_object

logger = logging.getLogger(__name__)


class NonFiniteGuard:
    """Looks at the gradient norm of each optimizer step, which all ranks share, and names the rows that broke it."""

    def __init__(self, limit: int, *, skips: bool = True):
        self.limit = limit
        self.skips = skips
        """Whether a step can be left out once its gradient is known; DeepSpeed has taken it by then."""
        self.skipped = 0  # over the whole run, resumed parts included
        self.steps_here = self.skipped_here = 0  # in this call of train()
        self.in_a_row = 0
        self.suspects: list[int] = []
        self.terms: list[str] = []
        """Terms of losses that were not finite, since the last step."""

    def start(self) -> None:
        """A call of train() begins."""
        self.steps_here = self.skipped_here = 0

    @property
    def share_taken(self) -> float:
        """Which part of the steps of this call of train() was not skipped."""
        return 1 - self.skipped_here / max(1, self.steps_here)

    def rejects(self, norm: Any, step: int, *, searching: bool) -> bool:
        """Whether nothing must be learnt from this step. All ranks must call it.

        Args:
            norm: of the gradient over all weights and ranks.
            step: its number, for the message.
            searching: float16 looks for its loss scale by trying ones that are too large and skips those steps itself;
                only a loss that was not finite is then a fault.

        Raises:
            FloatingPointError: the `limit`-th such step in a row; where none can be left out, the first.
        """
        suspects, self.suspects = self.suspects, []
        terms, self.terms = self.terms, []
        self.steps_here += 1
        if torch.isfinite(torch.as_tensor(norm)):
            self.in_a_row = 0
            return False
        rows = sorted(set(gather_object(suspects)) - {-1})
        if searching and not rows:
            return False
        self.skipped += 1
        self.skipped_here += 1
        self.in_a_row += 1
        self._report(rows, sorted(set(gather_object(terms))), step)
        return True

    def _report(self, rows: list[int], terms: list[str], step: int) -> None:
        where = f"rows {rows}" if rows else "no single row: every loss was finite"
        where += f", term {', '.join(terms)} of the loss" if terms else ""
        text = f"step {step}: the gradient is not finite ({where})"
        if not self.skips:
            raise FloatingPointError(
                f"{text}, and DeepSpeed has learnt from it already: look at those rows, or lower the learning rate, "
                "and go on from the last checkpoint"
            )
        if self.in_a_row >= self.limit:
            raise FloatingPointError(
                f"{text}, {self.in_a_row} times in a row: lower the learning rate or look at those rows"
            )
        logger.warning("%s; the step is skipped (%d so far)", text, self.skipped)

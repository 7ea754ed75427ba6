"""Exact evaluation of an objective: sums over every row, once, whatever the batch size and the number of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from ..batch import Batch, Outputs
from ..models.modes import evaluating
from ..objectives.base import Loss
from ..utils.tensors import masked_sum
from .metrics import Meter, term_metrics

if TYPE_CHECKING:
    from .trainer import PreferenceTrainer


class Evaluation:
    """One pass over a loader of this rank's rows (two where the rows are coupled)."""

    def __init__(self, trainer: PreferenceTrainer, loader: DataLoader, description: str):
        self.trainer, self.loader, self.description = trainer, loader, description
        self.objective = trainer.objective
        self.meter, self.terms = Meter(), Meter()
        self.weights: dict[str, float] = {}
        self.rows: list[tuple[Tensor, Tensor, Tensor]] = []

    def run(self, prefix: str) -> EvalLoopOutput:
        """Metrics named with `prefix`, and per row log-probs and rewards, in the order of the dataset."""
        with torch.no_grad(), evaluating(self.trainer.model_wrapped):
            for batch, out in self._outputs():
                self._add(self.objective.loss(out, batch), out, batch)
                self._progress()
        terms = self.terms.read()
        logps, rewards = self._per_row()
        metrics = {"loss": sum(self.weights[name] * value for name, value in terms.items())}
        metrics |= {f"loss/{name}": value for name, value in terms.items()} if len(terms) > 1 else {}
        metrics |= self.meter.read() | self.trainer.judge(logps, rewards)
        named = {f"{prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput((logps, rewards), None, named, len(logps))  # type: ignore[arg-type]

    def _outputs(self) -> Iterator[tuple[Batch, Outputs]]:
        batches: Iterator[Batch] = (self.trainer.annotated(batch) for batch in self.loader)
        if self.objective.couples:
            # The coupling is over the whole set, so a first pass sees every row; the state stays training's own.
            batches = iter(self.trainer.coupled(list(batches))[0])
        for batch in batches:
            yield batch, self.trainer.run(self.trainer.model_wrapped, batch)

    def _add(self, loss: Loss, out: Outputs, batch: Batch) -> None:
        self.meter.add(loss.metrics)
        self.terms.add(term_metrics(loss, self.objective.sizes(batch)))
        self.weights |= {name: term.weight for name, term in loss.terms.items()}
        logps = batch.lengths.new_zeros(batch.present.shape, dtype=torch.float32)
        if out.logps is not None:
            logps = masked_sum(out.logps, batch.loss_mask)
        rewards = torch.zeros_like(logps) if loss.rewards is None else loss.rewards
        absent = ~batch.present  # of fewer responses than another row of this batch: whose batch it is must not show
        logps, rewards = (x.masked_fill(absent[:, : x.shape[1]], torch.nan) for x in (logps, rewards))
        self.rows.append((batch.index.cpu(), logps.cpu(), rewards.cpu()))

    def _progress(self) -> None:
        t = self.trainer
        t.control = t.callback_handler.on_prediction_step(t.args, t.state, t.control)

    def _per_row(self) -> tuple[np.ndarray, np.ndarray]:
        """[N, K] each: rows of all ranks in the dataset's order, NaN for a response that a row does not have."""
        from accelerate.utils import gather_object

        pieces = gather_object([(i.tolist(), a.tolist(), b.tolist()) for i, a, b in self.rows])
        found = {number: (a[j], b[j]) for index, a, b in pieces for j, number in enumerate(index) if number >= 0}
        ordered = [found[number] for number in sorted(found)]
        return _matrix([a for a, _ in ordered]), _matrix([b for _, b in ordered])


def _matrix(rows: list[list[float]]) -> np.ndarray:
    width = max(map(len, rows), default=0)
    return np.array([row + [np.nan] * (width - len(row)) for row in rows])

"""Exact evaluation of an objective: sums over every row, once, whatever the batch size and the number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction

from ..batch import Batch, Outputs
from ..models.modes import evaluating
from ..objectives.base import Loss
from ..objectives.checks import loss_of
from ..utils.tensors import masked_sum
from .metrics import MetricsAccumulator, term_metrics
from .step import StepRunner

Predictions = tuple[np.ndarray, np.ndarray]
"""Log-probs and rewards of responses, [N, K] each."""


class Evaluation:
    """One pass over this rank's batches (two where rows depend on one another).

    Args:
        model: as the trainer wraps it.
        compute_metrics: the user's, which receives `EvalPrediction(predictions=(logps, rewards))`.
        progress: called after each batch.
    """

    def __init__(
        self,
        step: StepRunner,
        model: nn.Module,
        batches: Iterable[Batch],
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None,
        progress: Callable[[], None],
    ):
        self.step, self.model, self.batches = step, model, batches
        self.compute_metrics, self.progress = compute_metrics, progress
        self.meter, self.terms = MetricsAccumulator(), MetricsAccumulator()
        self.weights: dict[str, float] = {}
        self.rows: list[tuple[Tensor, Tensor, Tensor]] = []

    def run(self, prefix: str) -> EvalLoopOutput:
        """Metrics named with `prefix`, and per row log-probs and rewards, in the order of the dataset."""
        with torch.no_grad(), evaluating(self.model):
            for batch, out in self._outputs():
                loss = loss_of(self.step.objective, out, batch)
                self._add(loss, out, batch)
                self.progress()
        terms = self.terms.read()
        logps, rewards = self._per_row()
        metrics = {"loss": sum(self.weights[name] * value for name, value in terms.items())}
        metrics |= {f"loss/{name}": value for name, value in terms.items()} if len(terms) > 1 else {}
        metrics |= self.meter.read() | self._users_metrics((logps, rewards))
        named = {f"{prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput((logps, rewards), None, named, len(logps))  # type: ignore[arg-type]

    def _users_metrics(self, predictions: Predictions) -> dict[str, float]:
        if self.compute_metrics is None:
            return {}
        return self.compute_metrics(EvalPrediction(predictions=predictions, label_ids=None))  # type: ignore[arg-type]

    def _outputs(self) -> Iterator[tuple[Batch, Outputs]]:
        batches: Iterator[Batch] = (self.step.annotate(self.model, batch) for batch in self.batches)
        if self.step.objective.cross_batch:
            # Statistics are over the whole set, so a first pass sees every row; the state stays training's own.
            batches = iter(self.step.add_statistics(self.model, list(batches))[0])
        for batch in batches:
            yield batch, self.step.outputs_without_gradient(self.model, batch)

    def _add(self, loss: Loss, out: Outputs, batch: Batch) -> None:
        self.meter.add(loss.metrics)
        self.terms.add(term_metrics(loss, self.step.objective.sizes(batch)))
        self.weights |= {name: term.weight for name, term in loss.terms.items()}
        logps = batch.lengths.new_zeros(batch.present.shape, dtype=torch.float32)
        if out.logps is not None:
            logps = masked_sum(out.logps, batch.loss_mask)
        rewards = torch.zeros_like(logps) if loss.rewards is None else loss.rewards
        absent = ~batch.present  # of fewer responses than another row of this batch: whose batch it is must not show
        logps, rewards = (x.masked_fill(absent[:, : x.shape[1]], torch.nan) for x in (logps, rewards))
        self.rows.append((batch.index.cpu(), logps.cpu(), rewards.cpu()))

    def _per_row(self) -> Predictions:
        """Rows of all ranks in the dataset's order, NaN for a response that a row does not have."""
        pieces = gather_object([(i.tolist(), a.tolist(), b.tolist()) for i, a, b in self.rows])
        by_row = {number: (a[j], b[j]) for index, a, b in pieces for j, number in enumerate(index) if number >= 0}
        ordered = [by_row[number] for number in sorted(by_row)]
        return _matrix([a for a, _ in ordered]), _matrix([b for _, b in ordered])


def _matrix(rows: list[list[float]]) -> np.ndarray:
    width = max(map(len, rows), default=0)
    return np.array([row + [np.nan] * (width - len(row)) for row in rows])

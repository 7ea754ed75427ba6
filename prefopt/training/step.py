"""What one optimizer step computes: losses as sums, divided by the units of the whole step and of all ranks.

Whoever runs an objective has a `StepRunner` and needs no trainer for it. A step goes through it like this:

    batches, units, tokens = step.prepare(model, batches)    # what frozen models say, cross-batch statistics, counts
    for batch in batches:
        loss, outputs = step.loss(model, batch, units)       # sums, divided by the units of the whole step
        step.backpropagated(loss)
    step.accept(gradient_norm, number, scaler)               # or take back what a step that is not finite has left
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..batch import Batch, Outputs
from ..models.forward import forward
from ..models.modes import without_dropout
from ..models.reference import Reference
from ..objectives.base import Loss, Metric, Objective
from ..objectives.checks import loss_of
from .cross_batch import DONE, with_statistics
from .metrics import MetricsAccumulator, exact, term_metrics
from .nonfinite import NonFiniteGuard
from .out_of_memory import Room

State = dict[str, Tensor]
Units = dict[str, Tensor]
"""How many of each unit a step holds, as the mean over ranks: DDP averages the gradients of ranks."""


@dataclass(frozen=True)
class Noted:
    """The traces of some micro-batches of a step."""

    state: State
    loss: float
    metrics: dict[str, Metric]
    suspects: list[int]
    terms: list[str]


class StepRunner:
    """Runs an objective: every loss, evaluation and measurement of a run goes through here.

    The model is an argument of each method, since a trainer wraps it only when training begins.

    Args:
        objective: what is learnt.
        reference: the policy that log-ratios are taken against; None where the objective has none, or its log-probs
            are in the rows.
        accelerator: knows the device, the ranks and the precision.
        metrics: receives the sums that are logged.
        guard: tells of steps that are not finite.
    """

    def __init__(
        self,
        objective: Objective,
        reference: Reference | None,
        accelerator: Accelerator,
        metrics: MetricsAccumulator,
        guard: NonFiniteGuard,
    ):
        self.objective, self.reference, self.accelerator = objective, reference, accelerator
        self.metrics, self.guard = metrics, guard
        self.state = self._before = self.initial_state()
        self._loss = 0.0
        """Of this rank's share of the step, so far."""
        self.reading = Room("run a model without gradients on", recovers=accelerator.num_processes == 1)
        self.remedy: Callable[[], str] = lambda: "fewer rows at a time"
        """Says what would lower the peak of memory; whoever knows the run's arguments knows better."""

    def initial_state(self) -> State:
        """What the objective remembers before the first step, where training is."""
        return {name: tensor.to(self.accelerator.device) for name, tensor in self.objective.init_state().items()}

    # ---- before the loss -------------------------------------------------------------------------------------------

    def prepare(self, model: nn.Module, batches: list[Batch]) -> tuple[list[Batch], Units, int]:
        """The micro-batches of one optimizer step, ready for `loss`; its units; its tokens on all ranks."""
        self._before = self.state
        model.train()  # Trainer does so later, but quantised layers compute differently in the two modes
        batches = [self.annotate(model, batch) for batch in batches]
        if self.objective.cross_batch and len(batches) > 1:
            batches, self.state = self.add_statistics(model, batches)
        return batches, *self.count(batches)

    def annotate(self, model: nn.Module, batch: Batch) -> Batch:
        """The batch, on the right device, with `ref_logps` if the objective needs them and the rows lack them."""
        batch = batch.to(self.accelerator.device)
        if "reference" not in self.objective.needs or "ref_logps" in batch:
            return batch
        if self.reference is None:
            raise ValueError(
                "these rows have no precomputed ref_logps and the reference was released after precomputing: pass "
                "ref_model to the trainer, give it this dataset as eval_dataset, or set precompute_ref_log_probs=False"
            )
        reference = self.reference

        def run(part: Batch) -> Outputs:
            with self.accelerator.autocast():
                return reference(model, part, frozenset({"logps"}))

        out = self.reading.without_gradient(batch, run, "the reference", self.remedy)
        return batch.with_columns(ref_logps=out.required("logps"))

    def add_statistics(
        self, model: nn.Module, batches: list[Batch], outs: list[Outputs] | None = None
    ) -> tuple[list[Batch], State]:
        """The batches of a step with the columns of cross-batch statistics, and the objective's next state."""
        if outs is None:
            needed = self.objective.statistics_need_outputs
            outs = [self._outputs_before(model, batch) if needed else Outputs() for batch in batches]
        return with_statistics(self.objective, self.state, batches, outs)

    def complete(self, model: nn.Module, parts: list[Batch]) -> list[Batch]:
        """The parts of one micro-batch, with the statistics of all of it where these were left to `loss`."""
        if self.objective.cross_batch and DONE not in parts[0]:
            parts, self.state = self.add_statistics(model, parts)
        return parts

    def _outputs_before(self, model: nn.Module, batch: Batch) -> Outputs:
        # Dropout would draw random numbers that a resumed run, which restores them after this pass, does not see drawn.
        with without_dropout(model):
            return self.outputs_without_gradient(model, batch)

    @torch.no_grad()
    def outputs_without_gradient(self, model: nn.Module, batch: Batch) -> Outputs:
        """As `outputs`, of a batch that may be larger than what fits into memory at a time."""
        return self.reading.without_gradient(batch, partial(self.outputs, model), "a pass", self.remedy)

    def count(self, batches: Sequence[Batch]) -> tuple[Units, int]:
        """How many of each unit the batches hold, and of tokens, on all ranks, which must all call it."""
        sizes = [self.objective.sizes(batch) for batch in batches]
        names = sorted(sizes[0])
        attended = [batch.prompt_mask.sum() + batch.response_mask.sum() for batch in batches]
        columns = [[size[name] for size in sizes] for name in names] + [attended]
        counts = exact(torch.stack([torch.stack(column).sum() for column in columns]))
        counts = self.accelerator.reduce(counts, "mean")
        tokens = int(counts[-1] * self.accelerator.num_processes)
        return dict(zip(names, counts, strict=False)), tokens

    # ---- the loss --------------------------------------------------------------------------------------------------

    def outputs(self, model: nn.Module, batch: Batch) -> Outputs:
        """What the objective reads of the model on this batch."""
        with self.accelerator.autocast():
            return forward(model, batch, self.objective.outputs_on(batch))

    def loss(self, model: nn.Module, batch: Batch, units: Units | None = None) -> tuple[Tensor, Outputs]:
        """The loss of one micro-batch, scaled so that those of the step and its ranks add up to the step's loss.

        Args:
            units: of the whole step; None counts those of this batch.

        Returns:
            The loss, NaN if it is not finite, and the model's outputs.
        """
        out = self.outputs(model, batch)
        if self.objective.cross_batch and DONE not in batch:
            (batch,), self.state = self.add_statistics(model, [batch], [out])
        units = units or self.count([batch])[0]
        loss = loss_of(self.objective, out, batch)
        total = loss.reduced(units)
        if torch.isfinite(total):
            self._record(loss, batch)
        else:  # its metrics would spoil the sums of the steps that are logged with it
            self.guard.suspects += batch.index.tolist()
            self.guard.terms += [name for name, term in loss.terms.items() if not torch.isfinite(term.total)]
            total = total * torch.nan  # an infinite loss may have a finite gradient, by which ranks would not agree
        return total, out

    def _record(self, loss: Loss, batch: Batch) -> None:
        self.metrics.add(loss.metrics)
        if len(loss.terms) > 1:
            sizes = self.objective.sizes(batch)
            self.metrics.add({f"loss/{name}": metric for name, metric in term_metrics(loss, sizes).items()})

    # ---- what is taken back ----------------------------------------------------------------------------------------

    def noted(self) -> Noted:
        """What the micro-batches of this step have left here so far."""
        return Noted(self.state, self._loss, self.metrics.mark(), list(self.guard.suspects), list(self.guard.terms))

    def back_to(self, noted: Noted) -> None:
        """Forget what came after `noted`."""
        self.state, self._loss = noted.state, noted.loss
        self.metrics.back_to(noted.metrics)
        self.guard.suspects, self.guard.terms = list(noted.suspects), list(noted.terms)

    # ---- after the gradient ----------------------------------------------------------------------------------------

    def backpropagated(self, loss: Tensor) -> Tensor:
        """Take note of a micro-batch's loss; 0 in its place if it is not finite, for sums that one NaN would spoil."""
        self._loss += loss.item()
        return torch.where(torch.isfinite(loss), loss, torch.zeros_like(loss))

    def accept(self, norm: Any, number: int) -> bool:
        """Whether the step may be taken; if not, the objective's state is what it was before it.

        Args:
            norm: of the gradient, as all ranks agree on it.
            number: of the step, for the message.

        Raises:
            FloatingPointError: too many steps in a row were not finite.
        """
        rejected = self.guard.rejects(norm, number, searching=self.accelerator.scaler is not None)
        if rejected:
            self.state = self._before
        else:
            self.metrics.add({"loss": Metric(torch.tensor(self._loss, dtype=torch.float64), torch.tensor(1))})
        self._loss = 0.0
        return not rejected

"""Random batches and outputs for any objective, from what it declares, with the statistics that a trainer adds."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from prefopt.batch import Batch, Outputs
from prefopt.grades import GRADES
from prefopt.objectives.base import Loss, Objective

NEEDED_COLUMN = {"reference": "ref_logps"}
"""Which column a need brings; a need of another name brings the column of that name."""

EXPERIENCE = frozenset({"old_logps", "old_values", "advantages", "returns"})
"""What a rollout brings, for objectives that learn from one: what they need is spent on it before their loss."""


def make(objective: Objective, *, prompts: int = 6, length: int = 7, seed: int = 0) -> tuple[Batch, Outputs]:
    """A ragged batch with every column of the layout, and every output that the objective reads, in float64."""
    g = torch.Generator().manual_seed(seed)
    responses = (objective.responses or 3) + ("mismatched" in objective.needs)
    shape = (prompts, responses, length)
    lengths = torch.randint(2, length + 1, shape[:2], generator=g)
    if objective.responses is None:
        lengths[0, -1] = 0  # rows of different numbers of responses
    response_mask = torch.arange(length) < lengths[..., None]
    counted = torch.rand(shape, generator=g) < 0.8
    counted[..., 0] = True
    batch = Batch(
        prompt_ids=torch.randint(0, 50, (prompts, 4), generator=g),
        prompt_mask=torch.arange(4) >= torch.randint(0, 4, (prompts, 1), generator=g),
        response_ids=torch.randint(0, 50, shape, generator=g),
        response_mask=response_mask,
        loss_mask=response_mask & counted,
        index=torch.arange(prompts),
        score=torch.randn(shape[:2], generator=g, dtype=torch.float64).sort(1, descending=True).values,
        margin=torch.rand(prompts, generator=g, dtype=torch.float64),
        grade=torch.randint(-1, len(GRADES), (prompts,), generator=g),
        ref_logps=_logps(response_mask, g),
    )
    if "label" in objective.needs:
        batch = batch.with_columns(label=torch.rand(prompts, generator=g) < 0.5)
    if objective.on_policy:
        batch = batch.with_columns(**{name: _output(name, response_mask, g).detach() for name in sorted(EXPERIENCE)})
    return batch, Outputs(**{name: _output(name, response_mask, g) for name in objective.outputs})


def _logps(mask: Tensor, g: torch.Generator) -> Tensor:
    return (-2 * torch.rand(mask.shape, generator=g, dtype=torch.float64)).masked_fill(~mask, 0.0)


def _output(name: str, mask: Tensor, g: torch.Generator) -> Tensor:
    if name == "scores":
        values = torch.randn(mask.shape[:2], generator=g, dtype=torch.float64)
    elif name in ("logps", "old_logps", "log_sum_sq"):
        values = _logps(mask, g)
    elif name == "top1":
        values = (torch.rand(mask.shape, generator=g) < 0.5).double().masked_fill(~mask, 0.0)
    else:
        values = torch.randn(mask.shape, generator=g, dtype=torch.float64).masked_fill(~mask, 0.0)
    return values.requires_grad_()


def asked(objective: Objective) -> dict[str, str]:
    """The columns that a loss must have beyond the layout, each with the need that brings it."""
    if objective.on_policy:
        return {name: "experience" for name in EXPERIENCE}
    # A scorer is for making the rows, not for the loss on them.
    return {NEEDED_COLUMN.get(need, need): need for need in objective.offline.needs}


def declared_only(objective: Objective, batch: Batch) -> Batch:
    """The batch without the columns that the objective did not ask for."""
    always = {"prompt_ids", "prompt_mask", "response_ids", "response_mask", "loss_mask", "index"}
    return Batch({name: column for name, column in batch.items() if name in always | asked(objective).keys()})


def rows(out: Outputs, select: slice | Tensor) -> Outputs:
    """The same outputs for some of the prompts."""
    return mapped(out, lambda value: value[select])


def mapped(out: Outputs, function) -> Outputs:
    return Outputs(**{f.name: None if (v := getattr(out, f.name)) is None else function(v) for f in fields(out)})


def with_statistics(objective: Objective, batch: Batch, out: Outputs, state: dict[str, Tensor] | None = None) -> Batch:
    """The batch with the columns of its cross-batch statistics, when it is the whole optimizer step."""
    if not objective.cross_batch:
        return batch
    present = batch.present.any(-1)
    with torch.no_grad():
        gathered = {name: column[present] for name, column in objective.gather_statistics(out, batch).items()}
    columns, _ = objective.apply_statistics(gathered, objective.init_state() if state is None else state)
    return batch.with_columns(
        **{name: column.new_zeros(len(present)).masked_scatter(present, column) for name, column in columns.items()}
    )


def loss_of(objective: Objective, batch: Batch, out: Outputs) -> Loss:
    return objective.loss(out, with_statistics(objective, batch, out))


def numbers(loss: Loss) -> dict[str, float]:
    """Every number that a loss consists of, by name."""
    terms = {f"term {name}": float(term.total.detach()) for name, term in loss.terms.items()}
    totals = {f"total {name}": float(metric.total) for name, metric in loss.metrics.items()}
    return terms | totals | {f"count {name}": float(metric.count) for name, metric in loss.metrics.items()}

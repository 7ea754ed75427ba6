"""Columns that need every row of an optimizer step on every rank. Knows how rows are spread, not what is computed."""

from __future__ import annotations

import torch
from accelerate.utils import gather_object
from torch import Tensor

from ..batch import Batch, Outputs
from ..objectives.base import Objective

DONE = "coupled"
"""The column that says a batch has been through here."""

State = dict[str, Tensor]


def couple(objective: Objective, state: State, batches: list[Batch], outs: list[Outputs]) -> tuple[list[Batch], State]:
    """`batches` with the columns that `objective.couple` makes of all their rows, and the objective's next state.

    What each row must tell the others is observed batch by batch, gathered over ranks, coupled once, and handed back to
    the rows it belongs to. Absent rows tell nothing and get 0. All ranks must call it.
    """
    parts = [objective.observe(out.detached(), batch) for out, batch in zip(outs, batches, strict=True)]
    present = torch.cat([batch.present.any(-1) for batch in batches])
    observed = {name: torch.cat([part[name] for part in parts])[present] for name in parts[0]}
    everyone, mine = _gathered(observed, int(present.sum()))
    columns, state = objective.couple(everyone, state)
    sizes = [len(batch.prompt_ids) for batch in batches]
    spread = {name: _scatter(column[mine], present).split(sizes) for name, column in columns.items()}
    found = [{name: spread[name][i] for name in spread} | {DONE: batch.index} for i, batch in enumerate(batches)]
    return [batch.with_columns(**extra) for batch, extra in zip(batches, found, strict=True)], state


def _gathered(observed: dict[str, Tensor], count: int) -> tuple[dict[str, Tensor], slice]:
    """Rows of all ranks, rank by rank, and which of them are this rank's."""
    first = next(iter(observed.values()))
    parts = gather_object([{name: column.cpu() for name, column in observed.items()}])
    if len(parts) == 1:
        return observed, slice(0, count)
    rank = torch.distributed.get_rank()
    start = sum(len(next(iter(part.values()))) for part in parts[:rank])
    return {name: torch.cat([part[name] for part in parts]).to(first.device) for name in observed}, slice(
        start, start + count
    )


def _scatter(column: Tensor, present: Tensor) -> Tensor:
    """Values of present rows -> values of all rows, 0 where absent."""
    whole = column.new_zeros(len(present), *column.shape[1:])
    whole[present] = column
    return whole

"""Cross-batch statistics: columns that depend on every row of an optimizer step on all ranks, as those of KTO."""

from __future__ import annotations

import torch
from accelerate.utils import gather_object
from torch import Tensor

from ..batch import Batch, Outputs
from ..objectives.base import Objective

DONE = "statistics_added"
"""The column that says that a batch has its cross-batch statistics."""

State = dict[str, Tensor]


def with_statistics(
    objective: Objective, state: State, batches: list[Batch], outs: list[Outputs]
) -> tuple[list[Batch], State]:
    """Add the columns that `objective.apply_statistics` makes of all rows of a step. All ranks must call it.

    Statistics are gathered batch by batch and over ranks, applied once, and the columns are handed back to the rows
    that they belong to. Absent rows add nothing and get 0.

    Returns:
        The batches with these columns, and the objective's next state.
    """
    parts = [objective.gather_statistics(out.detached(), batch) for out, batch in zip(outs, batches, strict=True)]
    present = torch.cat([batch.present.any(-1) for batch in batches])
    own_rows = {name: torch.cat([part[name] for part in parts])[present] for name in parts[0]}
    all_rows, own = _over_ranks(own_rows, int(present.sum()))
    columns, state = objective.apply_statistics(all_rows, state)
    sizes = [len(batch.prompt_ids) for batch in batches]
    split = {name: _scatter(column[own], present).split(sizes) for name, column in columns.items()}
    added = [{name: split[name][i] for name in split} | {DONE: batch.index} for i, batch in enumerate(batches)]
    return [batch.with_columns(**extra) for batch, extra in zip(batches, added, strict=True)], state


def _over_ranks(own_rows: dict[str, Tensor], count: int) -> tuple[dict[str, Tensor], slice]:
    """Rows of all ranks, rank by rank, and where this rank's `count` rows are among them."""
    device = next(iter(own_rows.values())).device
    parts = gather_object([{name: column.cpu() for name, column in own_rows.items()}])
    if len(parts) == 1:
        return own_rows, slice(0, count)
    rank = torch.distributed.get_rank()
    start = sum(len(next(iter(part.values()))) for part in parts[:rank])
    all_rows = {name: torch.cat([part[name] for part in parts]).to(device) for name in own_rows}
    return all_rows, slice(start, start + count)


def _scatter(column: Tensor, present: Tensor) -> Tensor:
    """Values of present rows -> values of all rows, 0 where absent."""
    whole = column.new_zeros(len(present), *column.shape[1:])
    whole[present] = column
    return whole

"""Where padding and masks are decided: encoded rows to one `Batch` of tensors, and encoded rows by number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..batch import Batch
from ..grades import GRADES

Row = Mapping[str, Any]


def collate(rows: Sequence[Row], pad_to_multiple_of: int | None = None) -> Batch:
    """One batch of encoded rows; prompts are padded on the left, responses on the right.

    The id in padding is 0, and no mask ever lets it through.

    Args:
        rows: each with `prompt_ids`, `response_ids` (K lists) and optionally `loss_mask`, `score`, `margin`, `grade`,
            `label`, `ref_logps`, `index`. Rows may have different K: a missing response is absent.
        pad_to_multiple_of: the padded lengths of prompts and of responses are multiples of it.

    Returns:
        A batch of G rows: prompts [G, P], responses [G, K, R].
    """
    k = max([1, *(len(row["response_ids"]) for row in rows)])
    p = _rounded(max([1, *(len(row["prompt_ids"]) for row in rows)]), pad_to_multiple_of)
    r = _rounded(max([1, *(len(ids) for row in rows for ids in row["response_ids"])]), pad_to_multiple_of)
    prompts = [row["prompt_ids"] for row in rows]
    batch = Batch(
        prompt_ids=torch.tensor([[0] * (p - len(ids)) + list(ids) for ids in prompts]),
        prompt_mask=torch.tensor([[False] * (p - len(ids)) + [True] * len(ids) for ids in prompts]),
        response_ids=_responses(rows, "response_ids", k, r, 0),
        index=torch.tensor([row.get("index", -1) for row in rows]),
    )
    lengths = torch.tensor(
        [[len(ids) for ids in row["response_ids"]] + [0] * (k - len(row["response_ids"])) for row in rows]
    )
    batch["response_mask"] = torch.arange(r) < lengths.unsqueeze(-1)
    batch["loss_mask"] = batch.response_mask
    return batch.with_columns(**_optional(rows, k, r, batch))


def _rounded(length: int, multiple: int | None) -> int:
    """The length, or the next multiple."""
    return length if not multiple else -(-length // multiple) * multiple


def _optional(rows: Sequence[Row], k: int, r: int, batch: Batch) -> dict[str, Tensor]:
    """The columns that these rows have beyond those that all have: [G], [G, K] or [G, K, R]."""
    make: dict[str, Callable[[], Tensor]] = {
        "loss_mask": lambda: _responses(rows, "loss_mask", k, r, 0).bool() & batch.response_mask,
        "ref_logps": lambda: _responses(rows, "ref_logps", k, r, 0.0),
        "score": lambda: torch.tensor([[*row["score"], *[0.0] * (k - len(row["score"]))] for row in rows]),
        "margin": lambda: torch.tensor([float(row["margin"] or 0.0) for row in rows]),
        "grade": lambda: torch.tensor([_grade(row["grade"]) for row in rows]),
        "label": lambda: torch.tensor([bool(row["label"]) for row in rows]),
    }
    return {name: column() for name, column in make.items() if name in rows[0]}


def _responses(rows: Sequence[Row], column: str, k: int, r: int, fill: float) -> Tensor:
    """A column with a list for each response as a tensor [G, K, R], padded on the right with `fill`."""
    padded = []
    for row in rows:
        lists = list(row.get(column, [])) + [[]] * (k - len(row.get(column, [])))
        padded.append([list(values) + [fill] * (r - len(values)) for values in lists])
    return torch.tensor(padded)


def _grade(name: str | None) -> int:
    """Which of `GRADES` this is; -1 for none."""
    return GRADES.index(name) if name in GRADES else -1


class Rows(Dataset[Row]):
    """Encoded rows by number, each with its `index`: what a DataLoader takes them from.

    Number -1 is a row that only fills up a batch: its responses are empty, so every mask is False and nothing counts.
    """

    def __init__(self, rows: Any):
        self.rows = rows
        nothing: Row = {name: None if name in ("margin", "grade", "label") else [] for name in rows.column_names}
        per_response: list[list[int]] = [[]] * len(rows[0]["response_ids"]) if len(rows) else []
        self.absent: Row = {**nothing, "response_ids": per_response, "index": -1}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Row:
        return self.absent if number < 0 else {**self.rows[number], "index": number}

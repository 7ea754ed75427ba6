"""Token ids -> `Batch`: padding and the order of rows. Knows nothing of text, models or losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ..batch import Batch
from ..grades import GRADES

Row = Mapping[str, Any]


def collate(rows: Sequence[Row], pad_to_multiple_of: int | None = None) -> Batch:
    """Encoded rows -> one batch; prompts are padded on the left, responses on the right.

    A row has `prompt_ids`, `response_ids` (K lists) and optionally `loss_mask`, `score`, `margin`, `grade`,
    `ref_logps`, `index`. Rows may have different K: a missing response is absent. The id in padding is 0, and no mask
    ever lets it through.
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
    return length if not multiple else -(-length // multiple) * multiple


def _optional(rows: Sequence[Row], k: int, r: int, batch: Batch) -> dict[str, Tensor]:
    """The columns that a dataset may or may not have."""
    make: dict[str, Callable[[], Tensor]] = {
        "loss_mask": lambda: _responses(rows, "loss_mask", k, r, 0).bool() & batch.response_mask,
        "ref_logps": lambda: _responses(rows, "ref_logps", k, r, 0.0),
        "score": lambda: torch.tensor([[*row["score"], *[0.0] * (k - len(row["score"]))] for row in rows]),
        "margin": lambda: torch.tensor([float(row["margin"] or 0.0) for row in rows]),
        "grade": lambda: torch.tensor([_grade(row["grade"]) for row in rows]),
    }
    return {name: column() for name, column in make.items() if name in rows[0]}


def _responses(rows: Sequence[Row], column: str, k: int, r: int, fill: float) -> Tensor:
    padded = []
    for row in rows:
        lists = list(row.get(column, [])) + [[]] * (k - len(row.get(column, [])))
        padded.append([list(values) + [fill] * (r - len(values)) for values in lists])
    return torch.tensor(padded)


def _grade(name: str | None) -> int:
    return GRADES.index(name) if name in GRADES else -1


class Rows(Dataset[Row]):
    """Encoded rows by number, each with its `index`.

    Number -1 is a row that only fills up a batch: its responses are empty, so every mask is False and nothing counts.
    """

    def __init__(self, rows: Any):
        self.rows = rows
        nothing: Row = {name: None if name in ("margin", "grade") else [] for name in rows.column_names}
        per_response: list[list[int]] = [[]] * len(rows[0]["response_ids"]) if len(rows) else []
        self.absent: Row = {**nothing, "response_ids": per_response, "index": -1}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Row:
        return self.absent if number < 0 else {**self.rows[number], "index": number}


class Order(Sampler[int]):
    """Row numbers in an order that depends on the seed and the epoch only, as many as a multiple of `multiple`.

    Ranks then take whole batches of distinct rows: nothing is trained or counted twice to make ranks even. The last
    batch is filled up with -1, or left out if `drop`.
    """

    def __init__(
        self,
        size: int,
        *,
        multiple: int = 1,
        drop: bool = False,
        seed: int | None = None,
        epoch: Callable[[], int] = lambda: 0,
    ):
        self.size, self.multiple, self.drop, self.seed, self.epoch = size, multiple, drop, seed, epoch

    def __len__(self) -> int:
        whole = self.size // self.multiple if self.drop else -(-self.size // self.multiple)
        return whole * self.multiple

    def __iter__(self) -> Iterator[int]:
        order = torch.arange(self.size) if self.seed is None else self._shuffled()
        yield from order[: len(self)].tolist()
        yield from [-1] * (len(self) - self.size)

    def _shuffled(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch())  # type: ignore[operator]
        return torch.randperm(self.size, generator=generator)


def shard(size: int, rank: int, world: int, fill: int) -> list[int]:
    """Row numbers of one rank for an evaluation, filled up with -1 so that all ranks have as many batches of `fill`."""
    own = list(range(rank, size, world))
    longest = -(-size // world)
    return own + [-1] * (-(-longest // fill) * fill - len(own) if world > 1 else 0)

"""Rows and batches for models to learn from, of very different lengths, so that a mean of means would show."""

from __future__ import annotations

import random
from typing import Any

from datasets import Dataset

from prefopt.batch import Batch
from prefopt.data.collate import collate
from tests.helpers.models import VOCAB


def ragged_pairs(n: int, seed: int = 0, vocab: int = 1000, k: int = 2, **columns: Any) -> Dataset:
    """Encoded rows of one token to fifteen a response; `columns` makes further columns, a value a row."""
    rng = random.Random(seed)

    def ids(low: int, high: int) -> list[int]:
        return [rng.randrange(4, vocab) for _ in range(rng.randint(low, high))]

    rows = [{"prompt_ids": ids(1, 12), "response_ids": [[*ids(0, 14), 1] for _ in range(k)]} for _ in range(n)]
    dataset = Dataset.from_list(rows)
    for name, make in columns.items():
        dataset = dataset.add_column(name, [make(rng) for _ in range(n)])
    return dataset


def ragged(k: int, n: int = 5, seed: int = 0) -> Batch:
    """A batch with everything odd: an empty prompt, one-token and absent responses, an absent row, masked tokens."""
    rng = random.Random(seed)

    def ids(low: int, high: int) -> list[int]:
        return [rng.randrange(3, VOCAB) for _ in range(rng.randint(low, high))]

    rows = [{"prompt_ids": ids(1, 9), "response_ids": [ids(2, 8) for _ in range(k)]} for _ in range(n)]
    rows[0]["prompt_ids"] = []
    rows[1]["response_ids"][-1] = ids(1, 1)
    rows[2]["response_ids"] = rows[2]["response_ids"][: k - 1]
    rows.append({"prompt_ids": [], "response_ids": []})
    return collate(rows)

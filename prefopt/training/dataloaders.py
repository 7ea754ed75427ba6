"""Which rows a rank trains and evaluates on, in which batches. Knows numbers of rows and tokens, no model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

from datasets import Dataset
from torch.utils.data import DataLoader

from ..data.batching import RowSampler, TokenBudget, shard, token_counts
from ..data.collate import Rows
from .config import PreferenceConfig

logger = logging.getLogger(__name__)


class Batching:
    """Makes the data loaders of a run over encoded rows.

    Args:
        args: which order rows come in, and how many, or how many tokens, a batch holds.
        collate: rows -> batch.
    """

    def __init__(self, args: PreferenceConfig, collate: Callable[..., Any]):
        self.args, self.collate = args, collate
        self._rows_per_batch: float | None = None
        """Known once batches are cut by tokens."""

    def train_loader(self, rows: Any, size: int, epoch: Callable[[], int]) -> DataLoader:
        """Batches of all ranks, which accelerate deals out.

        Args:
            size: rows of a batch on a device, unless it is cut by tokens.
            epoch: which one is about to begin; each has an order of its own.

        Raises:
            ValueError: there are no rows.
        """
        if rows is None:
            raise ValueError("training needs a train_dataset: pass one to the trainer")
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        order = {
            "drop": self.args.dataloader_drop_last,
            "seed": None if self.args.train_sampling_strategy == "sequential" else seed,
            "epoch": epoch,
        }
        by_tokens = self.args.max_tokens_per_batch is not None
        return self._loader(rows, **(self._by_tokens(rows, order) if by_tokens else self._by_rows(rows, size, order)))

    def _by_rows(self, rows: Dataset, size: int, order: dict[str, Any]) -> dict[str, Any]:
        """Batches of a fixed number of rows, as `DataLoader` is told of them."""
        whole = self.args.world_size > 1 or self.args.dataloader_drop_last
        multiple = size * self.args.world_size if whole else 1
        return {"sampler": RowSampler(len(rows), multiple=multiple, **order), "batch_size": size}

    def _by_tokens(self, rows: Dataset, order: dict[str, Any]) -> dict[str, Any]:
        """Batches of as many rows as fit in so many tokens, as `DataLoader` is told of them."""
        budget = cast(int, self.args.max_tokens_per_batch)
        batches = TokenBudget(token_counts(rows), budget, world=self.args.world_size, **order)
        logger.info("training on %s", batches)
        self._rows_per_batch = batches.rows_per_batch
        return {"batch_sampler": batches}

    def rows_per_step(self, rows: int, size: int) -> int:
        """Of `rows`, those of a step with batches of `size` rows, the mean where batches are cut by tokens."""
        return rows if self._rows_per_batch is None else round(rows / size * self._rows_per_batch)

    def eval_loader(self, rows: Dataset) -> DataLoader:
        """This rank's share of the rows; every row is in exactly one rank's share."""
        size = self.args.eval_batch_size
        numbers = shard(len(rows), self.args.process_index, self.args.world_size, size)
        return self._loader(rows, sampler=numbers, batch_size=size)

    def _loader(self, rows: Dataset, **batching: Any) -> DataLoader:
        return DataLoader(
            Rows(rows),
            **batching,
            collate_fn=self.collate,
            num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type != "cpu",
            persistent_workers=self.args.dataloader_persistent_workers,
        )

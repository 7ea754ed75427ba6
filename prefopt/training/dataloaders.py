"""Which rows a rank trains and evaluates on, in which batches. Knows numbers of rows and tokens, no model."""

from __future__ import annotations

import logging
from typing import Any, cast

from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import Trainer

from ..data.batching import RowSampler, TokenBudget, shard, token_counts
from ..data.collate import Rows
from .config import PreferenceConfig

logger = logging.getLogger(__name__)


class Loading(Trainer):
    """The part of a trainer that makes its data loaders."""

    args: PreferenceConfig
    train_dataset: Any  # encoded rows, or none
    eval_dataset: Any  # the same, or a dict of them
    _prepare: Any
    """Raw rows -> encoded rows."""
    _rows_per_batch: float | None = None
    """Known once batches are cut by tokens."""

    def get_train_dataloader(self) -> DataLoader:
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset: pass one to the trainer")
        batching = self._by_rows if self.args.max_tokens_per_batch is None else self._by_tokens
        drawn = {
            "drop": self.args.dataloader_drop_last,
            "seed": None if self.args.train_sampling_strategy == "sequential" else self._data_seed,
            "epoch": lambda: int(self.state.epoch or 0),
        }
        return self.accelerator.prepare(self._loader(self.train_dataset, **batching(**drawn)))

    def _by_rows(self, **drawn: Any) -> dict[str, Any]:
        """Batches of a fixed number of rows, as `DataLoader` is told of them."""
        together = self._train_batch_size * self.args.world_size
        whole = self.args.world_size > 1 or self.args.dataloader_drop_last
        order = RowSampler(len(self.train_dataset), multiple=together if whole else 1, **drawn)
        return {"sampler": order, "batch_size": self._train_batch_size}

    def _by_tokens(self, **drawn: Any) -> dict[str, Any]:
        """Batches of as many rows as fit in so many tokens, as `DataLoader` is told of them."""
        counts, budget = token_counts(self.train_dataset), cast(int, self.args.max_tokens_per_batch)
        batches = TokenBudget(counts, budget, world=self.args.world_size, **drawn)
        logger.info("training on %s", batches)
        self._rows_per_batch = batches.rows_per_batch
        return {"batch_sampler": batches}

    def get_total_train_batch_size(self, args: Any) -> int:
        """Rows of an optimizer step; the mean where batches are cut by tokens, from which Trainer derives its speed."""
        rows = super().get_total_train_batch_size(args)
        return rows if self._rows_per_batch is None else round(rows / self._train_batch_size * self._rows_per_batch)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """This rank's share of the rows; every row is in exactly one rank's share."""
        chosen = self.eval_dataset if eval_dataset is None else eval_dataset
        if chosen is None:
            raise ValueError("evaluation needs an eval_dataset: pass one to the trainer or to evaluate()")
        if isinstance(chosen, str):
            chosen = self.eval_dataset[chosen]
        elif chosen is not self.eval_dataset and chosen is not self.train_dataset:  # which are prepared
            chosen = self._prepare(chosen)
        size = self.args.eval_batch_size
        numbers = shard(len(chosen), self.args.process_index, self.args.world_size, size)
        return self._loader(chosen, sampler=numbers, batch_size=size)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        return self.get_eval_dataloader(test_dataset)

    @property
    def _data_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _loader(self, dataset: Dataset, **batching: Any) -> DataLoader:
        return DataLoader(
            Rows(dataset),
            **batching,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type != "cpu",
            persistent_workers=self.args.dataloader_persistent_workers,
        )

"""The reference's log-probs of a dataset, computed once, sharded over ranks and kept on disk under a fingerprint."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..data.batching import shard, shard_by_tokens, token_counts
from ..data.collate import Rows, collate
from ..models.modes import batch_dependent_threshold, evaluating, is_quantized, training
from ..models.reference import cache_path, fingerprint, read_cache, write_cache
from .config import PreferenceConfig
from .step import StepRunner

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferencePass:
    """Runs the reference of a step runner over whole datasets, all ranks together.

    Args:
        model: the policy as it was handed in, which the reference may be made of.
    """

    step: StepRunner
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    args: PreferenceConfig

    def run(self, train: Any, evaluation: Any) -> tuple[Any, Any]:
        """Both datasets with the column `ref_logps`: per row, K lists of per-token log-probs. None stays None.

        Each is run in the mode in which the policy will be run on it, since 8-bit layers compute differently in the
        two.
        """
        if threshold := batch_dependent_threshold(self.model):
            logger.warning(
                "precompute_ref_log_probs on 8-bit layers with llm_int8_threshold=%s: where an activation reaches it, "
                "a row's log-probs depend on what else is in its batch, and the precomputed ones are not quite those "
                "of the policy before training. BitsAndBytesConfig(llm_int8_threshold=0.0), 4-bit layers or "
                "precompute_ref_log_probs=False have none of it",
                threshold,
            )
        with training(self.model):
            train = self._added_to(train)
        with evaluating(self.model):
            return train, self._added_to(evaluation)

    def _added_to(self, dataset: Any) -> Any:
        """The dataset with its column; a dict of datasets is done one by one."""
        if dataset is None or (isinstance(dataset, Dataset) and "ref_logps" in dataset.column_names):
            return dataset
        if isinstance(dataset, dict):
            return {name: self._added_to(part) for name, part in dataset.items()}
        flat = self._read_or_compute(dataset, cache_path(self._fingerprint(dataset)))
        return dataset.add_column("ref_logps", _column(flat, dataset))  # type: ignore[arg-type]

    def _fingerprint(self, dataset: Dataset) -> str:
        reference = self.step.reference
        assert reference is not None, "asked only while there is a reference"
        how = {"autocast": self.step.accelerator.mixed_precision, "layout": self.args.layout}
        if is_quantized(self.model):
            how["mode"] = "training" if self.model.training else "evaluation"
        settings = {**reference.settings(self.model), **how}
        return fingerprint(reference.weights(self.model), self.tokenizer, dataset, settings)

    def _read_or_compute(self, dataset: Dataset, path: Path) -> Tensor:
        kept = read_cache(path) if path.is_file() else None
        # All or none: ranks that disagree would sit in different passes, and other nodes may have another disk.
        if all(gather_object([kept is not None])):
            assert kept is not None
            logger.info("reference log-probs read from %s", path)
            return kept
        if kept is None and path.is_file():
            logger.warning("%s is damaged, and is computed anew", path)
        flat = self._compute(dataset)
        if self.args.should_save:
            try:
                write_cache(path, flat)
            except OSError as error:
                logger.warning(
                    "%s; the reference log-probs are in memory, and a resumed run computes them again", error
                )
        return flat

    def _compute(self, dataset: Dataset) -> Tensor:
        """Per-token log-probs of every response, one after the other: [sum of lengths]."""
        by_row = dict(gather_object(self._own_rows(dataset)))
        return torch.from_numpy(np.concatenate([by_row[number] for number in range(len(dataset))]))

    def _own_rows(self, dataset: Dataset) -> list[tuple[int, np.ndarray]]:
        loader = DataLoader(Rows(dataset), batch_sampler=_own_batches(self.args, dataset), collate_fn=collate)
        rows = []
        hidden = self.args.disable_tqdm or not self.args.should_log
        for batch in tqdm(loader, desc="reference log-probs", disable=hidden):
            batch = self.step.annotate(self.model, batch)
            for number, logps, mask in zip(batch.index.tolist(), batch.ref_logps, batch.response_mask, strict=True):
                if number >= 0:
                    rows.append((number, logps[mask].float().cpu().numpy()))
        return rows


def _own_batches(args: PreferenceConfig, dataset: Dataset) -> list[list[int]]:
    """Row numbers of each of this rank's batches, longest first: memory runs out at once or never."""
    rank, world = args.process_index, args.world_size
    budget = args.max_tokens_per_batch
    if isinstance(budget, int) and args.precompute_ref_batch_size is None:  # "auto" is found once training begins
        return shard_by_tokens(token_counts(dataset), budget, rank, world)
    size = args.precompute_ref_batch_size or args.eval_batch_size
    lengths = [len(row["prompt_ids"]) + max(map(len, row["response_ids"]), default=0) for row in dataset]
    by_length = sorted(range(len(dataset)), key=lambda i: -lengths[i])
    numbers = [by_length[i] if i >= 0 else -1 for i in shard(len(dataset), rank, world, size)]
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _column(flat: Tensor, dataset: Dataset) -> pa.Array:
    """The flat log-probs as a column of K lists a row, in float32 and without a Python number for each token."""
    counts = [[len(ids) for ids in row] for row in dataset["response_ids"]]
    tokens = np.cumsum([0, *(length for row in counts for length in row)], dtype=np.int32)
    responses = np.cumsum([0, *(len(row) for row in counts)], dtype=np.int32)
    return pa.ListArray.from_arrays(responses, pa.ListArray.from_arrays(tokens, flat.numpy()))

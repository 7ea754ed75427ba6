"""The reference's log-probs of a dataset, computed once, sharded over ranks and kept on disk under a fingerprint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.batching import shard, shard_by_tokens, token_counts
from ..data.collate import Rows, collate
from ..models.reference import cache_path, fingerprint, read_cache, write_cache

if TYPE_CHECKING:
    from .config import PreferenceConfig
    from .trainer import PreferenceTrainer

logger = logging.getLogger(__name__)


def with_ref_logps(trainer: PreferenceTrainer, dataset: Any) -> Any:
    """`dataset` with the column `ref_logps`: per row, K lists of per-token log-probs."""
    if dataset is None or (isinstance(dataset, Dataset) and "ref_logps" in dataset.column_names):
        return dataset
    if isinstance(dataset, dict):
        return {name: with_ref_logps(trainer, part) for name, part in dataset.items()}
    reference = trainer.reference
    assert reference is not None, "the trainer asks only while it has a reference"
    weights = reference.weights(trainer.model)
    how = {"autocast": trainer.accelerator.mixed_precision, "layout": trainer.args.layout}
    settings = {**reference.settings(trainer.model), **how}
    path = cache_path(fingerprint(weights, trainer.processing_class, dataset, settings))
    flat = _read_or_compute(trainer, dataset, path)
    return dataset.add_column("ref_logps", _column(flat, dataset))  # type: ignore[arg-type]


def _read_or_compute(trainer: PreferenceTrainer, dataset: Dataset, path: Path) -> Tensor:
    from accelerate.utils import gather_object

    # All or none: ranks that disagree would sit in different passes, and other nodes may have another disk.
    if all(gather_object([path.is_file()])):
        logger.info("reference log-probs read from %s", path)
        return read_cache(path)
    flat = _gathered(trainer, dataset)
    if trainer.args.should_save:
        write_cache(path, flat)
    return flat


def _gathered(trainer: PreferenceTrainer, dataset: Dataset) -> Tensor:
    """Per-token log-probs of every response, one after the other: [sum of lengths]."""
    from accelerate.utils import gather_object

    found = dict(gather_object(_own_rows(trainer, dataset)))
    return torch.from_numpy(np.concatenate([found[number] for number in range(len(dataset))]))


def _own_rows(trainer: PreferenceTrainer, dataset: Dataset) -> list[tuple[int, np.ndarray]]:
    args = trainer.args
    loader = DataLoader(Rows(dataset), batch_sampler=_own_batches(args, dataset), collate_fn=collate)
    found = []
    for batch in tqdm(loader, desc="reference log-probs", disable=args.disable_tqdm or not args.should_log):
        batch = trainer.annotated(batch)
        for number, logps, mask in zip(batch.index.tolist(), batch.ref_logps, batch.response_mask, strict=True):
            if number >= 0:
                found.append((number, logps[mask].float().cpu().numpy()))
    return found


def _own_batches(args: PreferenceConfig, dataset: Dataset) -> list[list[int]]:
    """Row numbers of each of this rank's batches, longest first: memory runs out at once or never."""
    rank, world = args.process_index, args.world_size
    if args.max_tokens_per_batch is not None and args.precompute_ref_batch_size is None:
        return shard_by_tokens(token_counts(dataset), args.max_tokens_per_batch, rank, world)
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

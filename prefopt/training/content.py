"""What a run is made of, by content: hashes of its weights, tokenizer and rows, and its settings by name and value."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor, nn

from ..data.tokenizer_identity import tokenizer_fingerprint
from ..models.peft_adapters import AUXILIARY_ADAPTERS
from ..models.reference import IGNORED_SETTINGS
from ..models.weights import full_shape, full_weight
from ..utils.hashing import hash_of
from .config import PreferenceConfig
from .identity import plain

ROWS_AT_ONCE = 1000
OF_THE_LIBRARY = IGNORED_SETTINGS | {"use_cache", "inference_mode", "peft_version", "revision", "torch_dtype"}
"""Entries of configs that the libraries set for themselves, and that say nothing of what is computed."""

FREE: Mapping[str, str] = {
    "where it is written": "output_dir overwrite_output_dir resume_from_checkpoint resume_with_changes",
    "what is logged": "logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter "
    "include_num_input_tokens_seen log_level log_level_replica disable_tqdm report_to run_name project "
    "trackio_space_id trackio_bucket_id trackio_static_space_id skip_memory_metrics debug",
    "what is saved": "save_only_model save_strategy save_steps save_on_each_node save_total_limit "
    "enable_jit_checkpoint restore_callback_states_from_checkpoint signal_grace",
    "what is published, with its secrets": "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy "
    "hub_always_push hub_revision",
    "what is evaluated": "eval_strategy eval_steps eval_delay per_device_eval_batch_size prediction_loss_only "
    "eval_on_start eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics "
    "batch_eval_metrics load_best_model_at_end do_train do_eval do_predict "
    "bf16_full_eval fp16_full_eval",
    "how work is dealt out": "dataset_num_proc dataloader_num_workers dataloader_pin_memory "
    "dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order "
    "accelerator_config parallelism_config ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers "
    "ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config deepspeed local_rank auto_find_batch_size",
    "how memory and time are spent": "activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing "
    "gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps "
    "use_cache full_determinism predict_memory",
    "what the content of model, tokenizer and rows says": "model_init_kwargs trust_remote_code chat_template_path "
    "chat_template_kwargs pad_token",
    "what has no effect here, or ends a sick run": "remove_unused_columns label_names length_column_name "
    "label_smoothing_factor use_liger_kernel liger_kernel_config average_tokens_across_devices max_skipped_steps",
}
"""Why a setting may be another when a run goes on -> those settings. Every other one of a config may not."""


def settings_of(args: PreferenceConfig) -> dict[str, Any]:
    """The settings that shape weights; an objective's own are described with it."""
    free = {name for names in FREE.values() for name in names.split()}
    return {each.name: plain(getattr(args, each.name)) for each in fields(PreferenceConfig) if each.name not in free}


def config_of(model: Any) -> dict[str, Any]:
    """The settings of a model and of its adapter: its architecture."""
    adapters = {
        name: plain(config.to_dict())
        for name, config in getattr(model, "peft_config", {}).items()
        if name not in AUXILIARY_ADAPTERS
    }
    parts = {"config": plain(model.config.to_dict()), **{f"adapter {name}": each for name, each in adapters.items()}}
    return {part: {name: value for name, value in each.items() if _counts(name)} for part, each in parts.items()}


def _counts(name: str) -> bool:
    return not (name in OF_THE_LIBRARY or name.startswith("_") or name.endswith("_token_id"))


@torch.no_grad()
def weights_hash(model: nn.Module) -> str:
    """A hash of all weights of a model. Where processes share them, each has to call it."""

    def parts() -> Iterator[Any]:
        for name, tensor in sorted(model.named_parameters()):
            yield f"{name} {full_shape(tensor)} {tensor.dtype}".encode()
            yield _memory(full_weight(tensor))

    return hash_of(parts())


def _memory(tensor: Tensor) -> Any:
    return tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data


def tokenizer_description(tokenizer: Any) -> dict[str, Any]:
    """What a tokenizer makes of text, and of turns."""
    template = json.dumps(getattr(tokenizer, "chat_template", None), sort_keys=True)
    return {"vocabulary": tokenizer_fingerprint(tokenizer), "chat template": hash_of([template.encode()])}


def rows_hash(rows: Any) -> str | None:
    """A hash of the rows of a dataset in their order, whatever files and types hold them; None where there are none."""
    if not isinstance(rows, Dataset):
        return None
    columns = sorted(rows.column_names)

    def parts() -> Iterator[Any]:
        for block in rows.with_format("arrow").iter(ROWS_AT_ONCE):
            for name in columns:
                yield f"{name}:".encode()
                column = block[name]
                yield from _parts(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)

    return hash_of(parts())


def deciding_rows(args: PreferenceConfig, rows: Any, own: Callable[[Any], Any]) -> dict[str, Any]:
    """Hashes of the held-out rows, where weights depend on them: the best checkpoint, an early stop, a plateau.

    Args:
        rows: a dataset, or several by name.
        own: a dataset without what was computed from it.
    """
    if args.metric_for_best_model is None or rows is None:
        return {}
    if isinstance(rows, dict):
        return {"evaluation data": {name: rows_hash(own(part)) for name, part in rows.items()}}
    return {"evaluation data": rows_hash(own(rows))}


def _parts(column: Any) -> Iterator[Any]:
    """The content of a column as bytes: that of lists of numbers as numbers, all else as JSON."""
    if isinstance(column, pa.ChunkedArray):  # combining no chunks, or too many, leaves some
        for chunk in column.chunks:
            yield from _parts(chunk)
    elif column.null_count == 0 and (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        yield column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64).data
        yield from _parts(column.flatten())
    elif column.null_count == 0 and (pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
        yield column.to_numpy(zero_copy_only=False).astype(np.int64).data
    elif column.null_count == 0 and pa.types.is_floating(column.type):
        yield column.to_numpy(zero_copy_only=False).astype(np.float64).data
    else:
        yield json.dumps(column.to_pylist(), sort_keys=True, default=str).encode()

"""A YAML file of LLaMA-Factory -> the `prefopt` command that trains the same, with what differs said by its line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from pkgutil import resolve_name
from shlex import quote
from typing import Any

import yaml

from ..training.arguments import ModelConfig, ScorerArguments, ScriptArguments
from ..training.declarations import DECLARATIONS
from ..training.older_settings import RENAMED
from .notes import Migrated, Note

STAGES = {"sft": "sft", "rm": "reward", "dpo": "dpo", "kto": "kto", "ppo": "ppo"}
RENAMES: Mapping[str, str] = {
    "cutoff_len": "max_length",
    "disable_shuffling": "train_sampling_strategy",
    "dpo_label_smoothing": "label_smoothing",
    "flash_attn": "attn_implementation",
    "infer_dtype": "dtype",
    "kto_chosen_weight": "desirable_weight",
    "kto_rejected_weight": "undesirable_weight",
    "lora_rank": "lora_r",
    "lora_target": "lora_target_modules",
    "additional_target": "lora_modules_to_save",
    "ppo_buffer_size": "num_mini_batches",
    "ppo_epochs": "num_ppo_epochs",
    "pref_beta": "beta",
    "preprocessing_num_workers": "dataset_num_proc",
    "reward_model": "scorer",
}
"""LLaMA-Factory's key -> prefopt's option, whose value may be written otherwise."""
ATTENTION = {"fa2": "flash_attention_2", "fa3": "flash_attention_3", "sdpa": "sdpa", "disabled": "eager"}
LOSSES = {"kto_pair": "kto"}
SILENT = frozenset(
    ("do_train", "do_eval", "do_predict", "stage", "finetuning_type", "overwrite_cache", "plot_loss", "pref_loss")
    + ("pref_ftx", "dataset_dir", "adapter_name_or_path", "ddp_timeout", "trust_remote_code", "lora_alpha")
)
"""Keys that are read elsewhere here, or ask for what happens anyway."""
OTHERWISE: Mapping[str, str] = {
    "template": "the tokenizer's own chat template is used; where it has none, add --chat_template_path",
    "deepspeed": "launch it by `accelerate launch --config_file examples/accelerate/zero3.yaml -m` (or zero2.yaml)",
    "fsdp": "launch it by `accelerate launch --config_file examples/accelerate/fsdp2.yaml -m`",
    "max_samples": "all rows are read: take as many lines of the file as you want",
    "packing": "rows always lie without padding; --max_tokens_per_batch fills a batch",
    "neat_packing": "rows always lie without padding; --max_tokens_per_batch fills a batch",
    "streaming": "rows are encoded before training starts",
    "train_on_prompt": "answers alone are trained on",
    "mask_history": "every assistant turn is trained on; give the last alone by leaving the others in the prompt",
    "use_unsloth": "leave it out",
    "enable_liger_kernel": "no vocabulary-sized tensor is kept here either; leave it out",
    "ref_model": "the reference is the model that training starts from; in Python another is ref_model of the trainer",
    "ref_model_adapters": "the reference is the model that training starts from",
    "reward_model_type": "a reward model's adapter is loaded by its folder too, and a service by its URL",
    "reward_model_adapters": "give the adapter's folder as --scorer",
    "ppo_score_norm": "rewards are normalised by PPO-max anyway: see --reward_norm",
    "ppo_whiten_rewards": "whole responses' rewards are normalised: see --reward_norm",
    "ppo_target": "a KL weight that adapts is asked for by --target_kl",
    "pref_bco_weight": "add bco_pair to --loss_type, with its weight in --loss_weights",
    "freeze_trainable_layers": "layers are not frozen one by one here: use --use_peft",
    "eval_dataset": "name a file by --eval_dataset",
    "predict_with_generate": "`prefopt evaluate` generates from a checkpoint",
    "double_quantization": "--use_bnb_nested_quant true asks for it",
}
"""What has no option of its own -> what to do."""
Values = dict[str, Any]


def migrated_file(path: Path) -> Migrated:
    """The command that trains what a file asks for.

    Raises:
        ValueError: it is no YAML, or no training of LLaMA-Factory's.
        OSError: it cannot be read.
    """
    values, lines = _read(path)
    stage = values.get("stage")
    if stage not in STAGES:
        raise ValueError(f"{path}: stage: {stage!r} is none that prefopt trains; known are {', '.join(STAGES)}")
    command = STAGES[str(stage)]
    notes: list[Note] = []

    def note(key: str, text: str, by_hand: bool = False) -> None:
        notes.append(Note(lines.get(key, 1), f"{key}: {text}", by_hand))

    known = _options(command)
    given = _model(values, note) | _rows(values, path, note) | _loss(values, command, note)
    for key, value in values.items():
        given |= _setting(key, value, known, note)
    words = [f"--{name} {_words(value)}" for name, value in given.items() if value is not None]
    return Migrated(" \\\n  ".join([f"prefopt {command}", *words]) + "\n", tuple(sorted(notes)))


def _read(path: Path) -> tuple[Values, dict[str, int]]:
    """The values of a file, and the line of each."""
    text = path.read_text(encoding="utf-8")
    try:
        values, node = yaml.safe_load(text), yaml.compose(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML ({error})") from error
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{path}: a file of LLaMA-Factory has `key: value` lines, among them `stage`")
    return values, {str(key.value): key.start_mark.line + 1 for key, _ in node.value}


def _options(command: str) -> frozenset[str]:
    kinds = (resolve_name(DECLARATIONS[command].config), ModelConfig, ScriptArguments, ScorerArguments)
    return frozenset(field.name for kind in kinds for field in fields(kind) if field.init)


def _model(values: Values, note: Callable[..., None]) -> Values:
    """The model, its precision and its adapter, whose defaults are LLaMA-Factory's where they differ."""
    given: Values = {"model_name_or_path": values.get("model_name_or_path")}
    if adapter := values.get("adapter_name_or_path"):
        given["model_name_or_path"] = adapter
        note("adapter_name_or_path", "an adapter's folder is given as the model; its base is loaded with it")
    if values.get("trust_remote_code"):
        given["trust_remote_code"] = True
    bits = values.get("quantization_bit")
    if bits in (4, 8):
        given[f"load_in_{bits}bit"] = True
    elif bits is not None:
        note("quantization_bit", f"{bits} bits are not offered: 4 or 8 are", True)
    kind = values.get("finetuning_type", "lora")
    if kind == "lora" and not adapter:
        rank = values.get("lora_rank", 8)
        given |= {"use_peft": True, "lora_r": rank, "lora_alpha": values.get("lora_alpha") or 2 * rank}
        given |= {"lora_dropout": values.get("lora_dropout", 0.0)}
        given |= {"lora_target_modules": _modules(values.get("lora_target", "all"))}
    elif kind not in ("full", "lora"):
        note("finetuning_type", f"{kind} is not offered on the command line: lora and full are", True)
    return given


def _modules(given: Any) -> Any:
    return "all-linear" if given == "all" else [part.strip() for part in str(given).split(",")]


def _rows(values: Values, path: Path, note: Callable[..., None]) -> Values:
    """The rows: by name where dataset_info.json beside the file says what the name means."""
    names = [part.strip() for part in str(values.get("dataset") or "").split(",") if part.strip()]
    if not names:
        note("dataset", "no rows are named: add --dataset_name", True)
    if len(names) > 1:
        note("dataset", f"one source is read: put the rows of {', '.join(names)} together in a file or a folder", True)
    given: Values = {"dataset_name": names[0] if names else None}
    folder = path.parent / str(values.get("dataset_dir", "data"))
    info = folder / "dataset_info.json"
    described = (
        json.loads(info.read_text(encoding="utf-8")).get(names[0] if names else "", {}) if info.is_file() else {}
    )
    if "file_name" in described:
        given["dataset_name"] = str(folder / described["file_name"])
    elif "hf_hub_url" in described:
        given["dataset_name"] = described["hf_hub_url"]
    elif "ms_hub_url" in described:
        given["dataset_name"] = f"modelscope://{described['ms_hub_url']}"
    elif names:
        note(
            "dataset",
            "is a name of LLaMA-Factory's dataset_info.json: give the file or hub id that it stands for",
            True,
        )
    given["learning_rate"] = values.get("learning_rate", 5e-5)
    given["max_length"] = values.get("cutoff_len", 2048)
    share = values.get("val_size") or 0
    if 0 < share < 1:
        given["eval_ratio"] = share
    elif share:
        note("val_size", "a number of rows: --eval_ratio takes a share of the prompts", True)
    return given


def _loss(values: Values, command: str, note: Callable[..., None]) -> Values:
    if command == "sft" and values.get("use_dft_loss"):
        return {"loss_type": "dft"}
    if command == "kto":
        if values.get("pref_ftx"):
            note("pref_ftx", "the likelihood beside KTO is a second loss here: --loss_type kto sft", by_hand=True)
        return {"beta": values.get("pref_beta", 0.1)}
    if command != "dpo":
        return {}
    loss, share = str(values.get("pref_loss", "sigmoid")), float(values.get("pref_ftx") or 0.0)
    loss = LOSSES.get(loss, loss)
    given: Values = {"loss_type": [loss], "beta": values.get("pref_beta", 0.1)}
    if loss == "simpo":
        given["simpo_gamma"] = values.get("simpo_gamma", 0.5)
    if share:
        given |= {"loss_type": [loss, "sft"], "loss_weights": [1.0, share]}
        note("pref_ftx", "the likelihood is a second loss, with its weight in --loss_weights")
    return given


def _setting(key: str, value: Any, known: frozenset[str], note: Callable[..., None]) -> Values:
    """The option of a key; nothing where it is none, which is said."""
    if key in SILENT or key in ("dataset", "val_size", "quantization_bit", "use_dft_loss", "simpo_gamma", "pref_beta"):
        return {}
    if key in OTHERWISE:
        note(
            key,
            OTHERWISE[key],
            by_hand=key in ("ref_model", "train_on_prompt", "max_samples", "eval_dataset", "pref_bco_weight"),
        )
        return {}
    if value is None or key in (
        "lora_rank",
        "lora_dropout",
        "lora_target",
        "model_name_or_path",
        "cutoff_len",
        "learning_rate",
    ):
        return {}
    name = RENAMES.get(key, RENAMED.get(key, key))
    if key == "flash_attn":
        return {name: ATTENTION[value]} if value in ATTENTION else {}
    if key == "disable_shuffling":
        return {name: "sequential"} if value else {}
    if key == "additional_target":
        return {name: _modules(value)}
    if name not in known:
        note(key, "has no counterpart here: see whether it matters", by_hand=True)
        return {}
    return {name: value}


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(map(_words, value))
    return quote(json.dumps(value) if isinstance(value, dict) else str(value))

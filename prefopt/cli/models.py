"""Models that arguments name: refused early where they cannot be, loaded as asked. Knows no command."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..training.arguments import LoadingArguments, ModelConfig, get_quantization_config, loading

ADAPTER = [field.name for field in fields(ModelConfig) if field.name.startswith(("lora_", "use_rs", "use_do"))]
FOUR_BITS = ["bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"]


def named(flag: str, value: str | None, what: str = "a path or a hub id") -> str:
    """`value`, unless it is missing."""
    if not value:
        raise ValueError(f"--{flag} is missing: give {what}")
    return value


def check_place(where: str, name: str) -> None:
    """Refuse a path where no model is; a hub id is left to the hub.

    Args:
        where: what named it, for the message.
    """
    path = Path(name).expanduser()
    if not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ValueError(f"{where} {name}: no such folder")
    if path.exists() and not any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
        raise ValueError(f"{where} {name}: holds no model, which would have a config.json")


def check_without(switch: str, arguments: Any, names: Iterable[str]) -> None:
    """Refuse arguments that mean nothing without another one, which was not given."""
    defaults = {field.name: field.default for field in fields(arguments)}
    changed = [name for name in names if getattr(arguments, name) != defaults[name]]
    if changed:
        raise ValueError(f"--{changed[0]} means nothing without --{switch}: add it, or leave --{changed[0]} out")


def located(arguments: LoadingArguments) -> dict[str, Any]:
    """Which of a repository's versions is meant."""
    return {name: value for name, value in loading(arguments).items() if name == "revision"}


def load_for_sampling(arguments: LoadingArguments, device: Any) -> tuple[Any, Any]:
    """The policy on its device, and its tokenizer."""
    from ..models.load import load_policy
    from ..models.modes import freeze, is_quantized
    from ..models.tokenizers import load_tokenizer

    name, kwargs = os.path.expanduser(str(arguments.model_name_or_path)), loading(arguments)
    tokenizer = load_tokenizer(name, **located(arguments))
    policy = load_policy(name, quantization_config=get_quantization_config(arguments), **kwargs)
    return freeze(policy if is_quantized(policy) else policy.to(device)), tokenizer

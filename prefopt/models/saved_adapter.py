"""Saved adapters: whose they are, and how one is loaded on the base that it names, whole or not at all.

PEFT only warns of weights that an adapter's file lacks, which then stay random, and says nothing of those that it has
no place for (0.21): what was loaded would be another model than was saved.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, PeftModelForCausalLM, PeftModelForSequenceClassification
from safetensors import safe_open
from transformers.utils import cached_file, find_adapter_config_file

from .heads import HEAD_NAMES
from .peft_adapters import adapter_weights, base_of, name_base
from .tokenizers import load_tokenizer
from .wrappers import check_adapter

ADAPTER_WEIGHTS = "adapter_model.safetensors"
HUB_OPTIONS = ("trust_remote_code", "revision", "token", "cache_dir", "subfolder", "local_files_only", "gguf_file")
"""What says where and how a config is found, of the options of `from_pretrained`."""
LOCATED = tuple(name for name in HUB_OPTIONS if name not in ("trust_remote_code", "gguf_file"))
"""Those that say where a file is."""


class IncompleteCheckpoint(ValueError):
    """Weights are missing that would be filled in with random numbers."""


def is_adapter(source: str) -> bool:
    """Whether a folder or hub id is that of an adapter."""
    if Path(source).is_dir():
        return (Path(source) / "adapter_config.json").is_file()
    return find_adapter_config_file(source) is not None


def is_policy_adapter(source: str) -> bool:
    """Whether a folder or hub id is that of an adapter without a reward head."""
    if not is_adapter(source):
        return False
    config = PeftConfig.from_pretrained(source)
    heads = set(getattr(config, "modules_to_save", None) or ()) & set(HEAD_NAMES)
    return config.task_type != "SEQ_CLS" and not heads


def labels_of_adapter(source: str) -> int | None:
    """How many numbers the head that is saved with an adapter gives; None where the file has no head."""
    whole = [(name.split("."), shape) for name, shape in _shapes(source, {}).items() if "lora_" not in name]
    of_head = [shape for parts, shape in whole if not set(HEAD_NAMES).isdisjoint(parts)]
    return min((shape[0] for shape in of_head if len(shape) == 2), default=None)


def load_adapter(
    source: str, options: Mapping[str, Any], load_base: Callable[[str, dict[str, Any]], Any], *, scores: bool
) -> PeftModel:
    """Load an adapter on its base; it goes on training.

    Args:
        source: folder or hub id of the adapter.
        options: for `from_pretrained`.
        load_base: path or hub id, and options -> the base.
        scores: it is a reward model's, not a policy's.

    Raises:
        IncompleteCheckpoint: the file lacks weights of the adapter, or tokens that its tokenizer has.
        ValueError: it is an adapter of another kind of model, or has weights that are not the adapter's.
    """
    config: Any = PeftConfig.from_pretrained(source)
    check_adapter(config)
    _check_task(source, config, scores)
    located = {name: options[name] for name in LOCATED if name in options}
    base = base_of(source)
    inner = load_base(base, {name: value for name, value in options.items() if name != "revision"} | _revision(config))
    shapes = _shapes(source, located)
    _add_tokens(inner, source, shapes)
    kind = PeftModelForSequenceClassification if scores else PeftModelForCausalLM
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys")
            model = kind.from_pretrained(inner, source, is_trainable=True, **located)
    except (UserWarning, KeyError) as missing:
        raise _incomplete(source, str(missing).rstrip(".")) from missing
    _check_places(model, set(shapes), source)
    name_base(model, base)
    return model


def differing_names(model: PeftModel, found: set[str]) -> tuple[list[str], list[str]]:
    """Which weights of a model's adapter are not among those saved, and which of these it has no place for.

    Of the others some are the model's own: with the adapter PEFT saves embeddings that it thinks may have changed.
    """
    wanted = set(adapter_weights(model, str(model.active_adapter)))
    return sorted(wanted - found), sorted(found - wanted - set(model.state_dict()))


def _check_places(model: PeftModel, found: set[str], source: str) -> None:
    """Refuse a file that has too few or too many weights for a loaded adapter, by what PEFT does not look at.

    Where both seem to be so, transformers has changed their names since: then nothing can be told by them.
    """
    missing, unexpected = differing_names(model, found)
    if missing and not unexpected and found:
        raise _incomplete(source, ", ".join(missing))
    if unexpected and not missing:
        raise ValueError(
            f"{source} has weights that its adapter_config.json has no place for, and which would be left out: "
            f"{', '.join(unexpected[:3])} ({len(unexpected)} in all). Take the config that they were saved with"
        )


def _incomplete(source: str, missing: str) -> IncompleteCheckpoint:
    return IncompleteCheckpoint(
        f"{source} lacks weights of its adapter, which would be random: {missing}. Take another copy of the folder"
    )


def _check_task(source: str, config: Any, scores: bool) -> None:
    if config.task_type not in (None, "SEQ_CLS" if scores else "CAUSAL_LM"):
        wanted = "a reward model (SEQ_CLS)" if scores else "a policy (CAUSAL_LM)"
        raise ValueError(f"{source} is an adapter with the task_type {config.task_type}, and not one of {wanted}")


def _revision(config: Any) -> dict[str, str]:
    """Of the base."""
    return {} if config.revision is None else {"revision": config.revision}


def _shapes(source: str, located: Mapping[str, Any]) -> dict[str, list[int]]:
    """The weights in an adapter's file; none where it is not in safetensors."""
    file = cached_file(source, ADAPTER_WEIGHTS, _raise_exceptions_for_missing_entries=False, **located)
    if file is None:
        return {}
    with safe_open(file, framework="pt") as weights:
        return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118


def _add_tokens(inner: Any, source: str, shapes: Mapping[str, list[int]]) -> None:
    """Make room in a base for embeddings that were added to it before the adapter, and are saved with it."""
    if not (Path(source) / "tokenizer_config.json").is_file():
        return
    embeddings = inner.get_input_embeddings()
    rows, tokens = embeddings.weight.shape[0], len(load_tokenizer(source))
    if tokens <= rows:
        return
    (name,) = [name for name, module in inner.named_modules() if module is embeddings]
    saved = [shape for key, shape in shapes.items() if key.startswith(f"base_model.model.{name}.") and len(shape) == 2]
    if not any(shape[0] >= tokens for shape in saved):
        raise IncompleteCheckpoint(
            f"{source} has a tokenizer of {tokens:,} tokens, and its base has {rows:,} embeddings: those of the others "
            "would be random. Save the adapter with save_embedding_layers=True"
        )
    inner.resize_token_embeddings(max(shape[0] for shape in saved))

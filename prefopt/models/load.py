"""Loads policies and reward models from a path or hub id, with dtype, quantisation and adapters."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from peft import (
    PeftConfig,
    PeftModel,
)
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from .generation_config import repair_generation_config
from .heads import (
    HEAD_NAMES,
    LM_HEAD,
    attach_lm_head,
    check_scorer,
    head_name,
    is_scorer,
    layers_below_head,
    load_normalization,
    reward_head_of,
    scorer_from_policy,
    separate_pad,
    several_labels,
    upcast_head,
)
from .merge import merge_adapter
from .modes import is_quantized, keep_differentiable, stop_rescaling
from .new_adapter import add_adapter as add_adapter
from .peft_adapters import base_of, name_base
from .rotary import restore_frequencies
from .saved_adapter import (
    ADAPTER_WEIGHTS,
    HUB_OPTIONS,
    is_adapter,
    is_policy_adapter,
    labels_of_adapter,
    load_adapter,
)
from .saved_adapter import IncompleteCheckpoint as IncompleteCheckpoint
from .tokenizers import load_tokenizer as load_tokenizer
from .weights import gathered_to_change
from .wrappers import base_transformer, check_adapter

logger = logging.getLogger(__name__)

WEIGHT_FILES = (ADAPTER_WEIGHTS, "model.safetensors")
"""Files that hold all weights of a folder."""


class _AutoPolicy:
    """Loads a language model, by itself or as part of a model that reads images too."""

    @staticmethod
    def from_pretrained(source: str, **options: Any) -> Any:
        located = {name: options[name] for name in HUB_OPTIONS if name in options}
        kind = type(AutoConfig.from_pretrained(source, **located))
        if kind in AutoModelForCausalLM._model_mapping or kind not in AutoModelForImageTextToText._model_mapping:
            return AutoModelForCausalLM.from_pretrained(source, **options)
        logger.info("%s reads images too: its text is what is trained, and what reads images stays as it is", source)
        return AutoModelForImageTextToText.from_pretrained(source, **options)


def load_policy(source: str | PreTrainedModel | PeftModel, *, quantization_config: Any = None, **kwargs: Any) -> Any:
    """Load a policy: a causal language model, or a model of images and text, which is given text alone.

    Args:
        source: path, hub id or adapter folder (its base is loaded with it and the adapter goes on training), or a
            model, which is returned as it is.
        quantization_config: a `BitsAndBytesConfig`.
        kwargs: for `from_pretrained`; `dtype` is float32 unless given.

    Raises:
        IncompleteCheckpoint: weights are missing that would be random.
        ValueError: an argument that has no effect on a model, or a dtype that torch does not know.
    """
    if not isinstance(source, str):
        return _given_model(source, quantization_config, kwargs)
    return _from_pretrained(_AutoPolicy, source, quantization_config, kwargs)


def load_scorer(
    source: str | PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    quantization_config: Any = None,
    lm_head: bool = False,
    **kwargs: Any,
) -> Any:
    """Load a reward model, which gives one score to each response. Its head is in float32.

    Args:
        source: path, hub id, adapter folder, or a model; a language model gives its backbone to a new reward head,
            with its adapter, if it has one, merged in.
        tokenizer: gets a pad token that is not the end of a response, if it has none.
        lm_head: also keep the language-model head, for the auxiliary loss.
        quantization_config, kwargs: as for `load_policy`.

    Raises:
        IncompleteCheckpoint: weights other than the head's are missing.
        ValueError: as `load_policy`; a family without a classification model; `lm_head` without a language model.
    """
    if isinstance(source, str) and is_policy_adapter(source):
        if quantization_config is not None:
            raise ValueError(
                f"{source} is a policy's adapter, which is merged under a reward head, and nothing quantised can be "
                "merged into: save merge_adapter(load_policy(...)), and load that with the quantization_config"
            )
        source, kwargs = load_policy(source, **kwargs), {}
    if isinstance(source, str):
        _check_saved_labels(source, kwargs)
        auto = AutoModelForSequenceClassification
        scorer = _from_pretrained(auto, source, quantization_config, {"num_labels": 1} | kwargs)
    else:
        scorer = source = _merged_if_policy(_given_model(source, quantization_config, kwargs))
        if not isinstance(scorer, PeftModel) and not is_scorer(scorer):
            scorer = scorer_from_policy(scorer)
    inner: Any = scorer.get_base_model() if isinstance(scorer, PeftModel) else scorer
    check_scorer(inner, source if isinstance(source, str) else type(inner).__name__)
    upcast_head(inner)
    if isinstance(source, str) and Path(source).is_dir():
        _restore_head(inner, Path(source))
        load_normalization(inner, Path(source))
    if tokenizer is not None:
        separate_pad(inner, tokenizer)
    if lm_head and not hasattr(inner, LM_HEAD):
        attach_lm_head(inner, _language_model(source, kwargs))
    return scorer


def _check_saved_labels(source: str, kwargs: dict[str, Any]) -> None:
    """Refuse a saved classification model of several labels before transformers fails on the shape of its head."""
    options = {name: kwargs[name] for name in ("revision", "trust_remote_code") if name in kwargs}
    if is_adapter(source):
        if (labels := labels_of_adapter(source)) not in (None, 1):
            raise ValueError(several_labels(source, labels))
        source = PeftConfig.from_pretrained(source).base_model_name_or_path or ""
        options.pop("revision", None)
    if not source:
        return
    config = AutoConfig.from_pretrained(source, **{"trust_remote_code": False} | options)
    if config.num_labels != 1 and any("Classification" in kind for kind in config.architectures or ()):
        raise ValueError(several_labels(source, config.num_labels))


def _merged_if_policy(model: Any) -> Any:
    """A policy's adapter becomes part of the backbone under a reward head; the model handed in stays as it is."""
    if not isinstance(model, PeftModel) or is_scorer(model.get_base_model()):
        return model
    logger.info("the policy's adapter becomes part of the backbone of the reward model")
    return merge_adapter(model)


def _language_model(source: str | PreTrainedModel | PeftModel, kwargs: dict[str, Any]) -> Any:
    """The causal language model that `source` names or is, or None if it has no language-model head."""
    if not isinstance(source, str):
        return source
    if is_adapter(source):
        source = base_of(source)
    try:
        return load_policy(source, **kwargs)
    except IncompleteCheckpoint:
        return None


def _from_pretrained(auto: Any, source: str, quantization_config: Any, kwargs: dict[str, Any]) -> Any:
    options = {"dtype": torch.float32, "trust_remote_code": False, "use_safetensors": True} | kwargs
    if isinstance(options["dtype"], str) and options["dtype"] != "auto":
        options["dtype"] = _dtype(options["dtype"])
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    if is_adapter(source):
        model = load_adapter(source, options, partial(_complete, auto), scores=auto is not _AutoPolicy)
    else:
        model = _complete(auto, source, options)
    if isinstance(model, nn.Module):
        stop_rescaling(model)
        repair_generation_config(model)
        if is_quantized(model):
            keep_differentiable(model)
    return model


def _complete(auto: Any, source: str, options: dict[str, Any]) -> Any:
    """A model all of whose weights were in the checkpoint; a new reward head is expected and only worth a line."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report of missing weights alarms over a head that has to be new
    try:
        model, info = auto.from_pretrained(source, output_loading_info=True, **options)
    finally:
        transformers_logging.set_verbosity(verbosity)
    missing = set(info["missing_keys"])
    head = {name for name in missing if _is_of_head(name, model)}
    if missing - head:
        raise IncompleteCheckpoint(
            f"{source} lacks weights, which would be random: {', '.join(sorted(missing - head)[:5])}"
        )
    if head:
        logger.info("%s has no reward head: a new one was made", source)
    return model


def _is_of_head(name: str, model: Any) -> bool:
    """Whether a weight is the reward head's: of an encoder also the layers between it and the backbone."""
    if name.split(".")[0] in HEAD_NAMES:
        return True
    return is_scorer(model) and any(name.startswith(f"{layer}.") for layer in layers_below_head(model))


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype={name!r} is not a torch dtype: use float32, bfloat16, float16 or auto")
    return dtype


def _given_model(model: Any, quantization_config: Any, kwargs: dict[str, Any]) -> Any:
    arguments = sorted({*kwargs, *(["quantization_config"] if quantization_config is not None else [])})
    if arguments:
        raise ValueError(
            f"{', '.join(arguments)} is for loading a model by name, but {type(model).__name__} is already one"
        )
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            check_adapter(config)
        name_base(model)
    restore_frequencies(model)
    stop_rescaling(model)
    repair_generation_config(model)
    _name_tie(base_transformer(model))
    # A trainer that ran in mixed precision left its autocast around `forward`, for every later use of the model.
    return extract_model_from_parallel(model, keep_fp32_wrapper=False)


def _name_tie(inner: Any) -> None:
    """Let the config say so where head and embeddings are one weight: saved without it, the head would be missing."""
    head, embeddings = inner.get_output_embeddings(), inner.get_input_embeddings()
    shared = getattr(head, "weight", None) is not None and head.weight is getattr(embeddings, "weight", None)
    config = inner.config.get_text_config()
    if shared and not getattr(config, "tie_word_embeddings", True):
        logger.warning(
            "%s has one weight for head and embeddings, and a config with tie_word_embeddings=False, by which it would "
            "be saved without a head: it says True now",
            type(inner).__name__,
        )
        config.tie_word_embeddings = inner.config.tie_word_embeddings = True


def _restore_head(model: PreTrainedModel, folder: Path) -> None:
    """Read a saved head back in float32: loading a half-precision checkpoint rounds it with the rest."""
    head, prefix = reward_head_of(model), f"{head_name(model)}."
    if is_adapter(str(folder)):
        copies = getattr(head, "modules_to_save", None) or {}  # PEFT trains a copy of the head
        head, prefix = next(iter(copies.values()), head), f"base_model.model.{prefix}"
    parameters = {f"{prefix}{name}": parameter for name, parameter in head.named_parameters()}
    for file, names in _names_by_file(folder, set(parameters)).items():
        with safe_open(file, framework="pt") as weights, torch.no_grad():
            for name in names:
                with gathered_to_change([parameters[name]]):
                    parameters[name].copy_(weights.get_tensor(name))


def _names_by_file(folder: Path, names: set[str]) -> dict[Path, set[str]]:
    """Which of these weights are in which file of a folder; weights that no file has are left out."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        file_of = json.loads(index.read_text())["weight_map"]
        files = {file_of[name] for name in names & set(file_of)}
        return {folder / file: {name for name in names if file_of.get(name) == file} for file in files}
    only_file = next((file for name in WEIGHT_FILES if (file := folder / name).is_file()), None)
    if only_file is None:
        return {}
    with safe_open(only_file, framework="pt") as weights:
        return {only_file: names & set(weights.keys())}

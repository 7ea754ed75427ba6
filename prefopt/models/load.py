"""Loads policies, reward models and tokenizers from a path or hub id, with dtype, quantisation and adapters."""

from __future__ import annotations

import copy
import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from peft import (
    AutoPeftModelForCausalLM,
    AutoPeftModelForSequenceClassification,
    PeftConfig,
    PeftModel,
    get_peft_model,
    prepare_model_for_kbit_training,
)
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import cached_file, find_adapter_config_file
from transformers.utils import logging as transformers_logging

from .generation_config import repair_generation_config
from .heads import (
    HEAD_NAMES,
    LM_HEAD,
    attach_lm_head,
    check_single_label,
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
from .peft_adapters import base_of, name_base
from .rotary import restore_frequencies
from .wrappers import check_adapter

logger = logging.getLogger(__name__)


class IncompleteCheckpoint(ValueError):
    """Weights are missing that transformers would fill in with random numbers."""


GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""What a tokenizer_config.json says of a tokenizer that is of no family, all of which is in its tokenizer.json."""
PROBE = "It's  12,345 cafés_x²!\n\n\tdef f(x): 中文，测试 don't"
"""A text on which tokenizers with other rules give other ids."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
WEIGHT_FILES = (ADAPTER_WEIGHTS, "model.safetensors")
"""Files that hold all weights of a folder."""


HUB_OPTIONS = ("trust_remote_code", "revision", "token", "cache_dir", "subfolder", "local_files_only", "gguf_file")
"""What says where and how a config is found, of the options of `from_pretrained`."""


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


class _AutoPeftPolicy(AutoPeftModelForCausalLM):
    _target_class = _AutoPolicy  # type: ignore[assignment]


def load_tokenizer(source: str, **kwargs: Any) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model.

    A missing pad token becomes the end-of-sequence token: padding is told by masks here, never by its id.

    Args:
        source: path or hub id.
        kwargs: for `AutoTokenizer.from_pretrained`.
    """
    options = {"trust_remote_code": False} | kwargs
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    if get_tokenizer_config(source).get("tokenizer_class") in GENERIC and not _has_files_ids(tokenizer, source):
        logger.warning(
            "%s holds a tokenizer of its own, which AutoTokenizer turns into a %s with other ids because of the model "
            "beside it: it is loaded as it was saved; elsewhere use PreTrainedTokenizerFast.from_pretrained",
            source,
            type(tokenizer).__name__,
        )
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source, **options)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _has_files_ids(tokenizer: Any, source: str) -> bool:
    """Whether a tokenizer gives the ids of the tokenizer.json that it was loaded from."""
    file = cached_file(source, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
    if file is None or not tokenizer.is_fast or type(tokenizer) is PreTrainedTokenizerFast:
        return True
    saved, loaded = Tokenizer.from_file(file), tokenizer.backend_tokenizer
    words = " ".join(sorted(saved.get_vocab())[:1000])
    return all(
        saved.encode(text, add_special_tokens=False).ids == loaded.encode(text, add_special_tokens=False).ids
        for text in (PROBE, words)
    )


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
    auto = _AutoPeftPolicy if _is_adapter(source) else _AutoPolicy
    return _from_pretrained(auto, source, quantization_config, kwargs)


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
    if isinstance(source, str) and _is_policy_adapter(source):
        if quantization_config is not None:
            raise ValueError(
                f"{source} is a policy's adapter, which is merged under a reward head, and nothing quantised can be "
                "merged into: save merge_adapter(load_policy(...)), and load that with the quantization_config"
            )
        source, kwargs = load_policy(source, **kwargs), {}
    if isinstance(source, str):
        auto = AutoPeftModelForSequenceClassification if _is_adapter(source) else AutoModelForSequenceClassification
        _check_saved_labels(source, kwargs)
        scorer = _from_pretrained(auto, source, quantization_config, {"num_labels": 1} | kwargs)
    else:
        scorer = source = _merged_if_policy(_given_model(source, quantization_config, kwargs))
        if not isinstance(scorer, PeftModel) and not is_scorer(scorer):
            scorer = scorer_from_policy(scorer)
    inner: Any = scorer.get_base_model() if isinstance(scorer, PeftModel) else scorer
    check_single_label(inner, source if isinstance(source, str) else type(inner).__name__)
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
    if _is_adapter(source):
        if (labels := _labels_of_adapter(source)) not in (None, 1):
            raise ValueError(several_labels(source, labels))
        source = PeftConfig.from_pretrained(source).base_model_name_or_path or ""
        options.pop("revision", None)
    if not source:
        return
    config = AutoConfig.from_pretrained(source, **{"trust_remote_code": False} | options)
    if config.num_labels != 1 and any("Classification" in kind for kind in config.architectures or ()):
        raise ValueError(several_labels(source, config.num_labels))


def _labels_of_adapter(source: str) -> int | None:
    """How many numbers the head that is saved with an adapter gives; None where the file has no head."""
    file = cached_file(source, ADAPTER_WEIGHTS, _raise_exceptions_for_missing_entries=False)
    if file is None:
        return None
    with safe_open(file, framework="pt") as weights:
        names = [name for name in weights.keys() if "lora_" not in name]  # noqa: SIM118
        of_head = [name for name in names if not set(HEAD_NAMES).isdisjoint(name.split("."))]
        shapes = [weights.get_slice(name).get_shape() for name in of_head]
    return min((shape[0] for shape in shapes if len(shape) == 2), default=None)


def _is_policy_adapter(source: str) -> bool:
    if not _is_adapter(source):
        return False
    config = PeftConfig.from_pretrained(source)
    heads = set(getattr(config, "modules_to_save", None) or ()) & set(HEAD_NAMES)
    return config.task_type != "SEQ_CLS" and not heads


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
    if _is_adapter(source):
        source = base_of(source)
    try:
        return load_policy(source, **kwargs)
    except IncompleteCheckpoint:
        return None


def add_adapter(model: PreTrainedModel, peft_config: PeftConfig, *, gradient_checkpointing: bool) -> PeftModel:
    """Put a fresh adapter on a model, which then trains instead of the model's weights.

    Args:
        model: a policy or a reward model, quantised or not.
        peft_config: such as a `LoraConfig`; of a reward model the head trains with the adapter.
        gradient_checkpointing: layers are checkpointed, for which the inputs of frozen layers need gradients.

    Raises:
        ValueError: the model already carries an adapter, or cannot run with this one.
    """
    if isinstance(model, PeftModel):
        raise ValueError(
            "the model already has an adapter and a peft_config was given: pass the model alone to go on training its "
            "adapter, or prefopt.models.merge_adapter(model) with the peft_config to start a new one"
        )
    if (
        getattr(peft_config, "use_dora", False)
        and getattr(model, "is_loaded_in_8bit", False)
        and model.device.type == "cpu"
    ):
        raise ValueError(
            "DoRA on 8-bit layers cannot run on the CPU: it dequantises them at every pass, by which they lose the "
            "scales of their rows (peft 0.21, bitsandbytes 0.50). Use 4-bit layers, or LoRA without use_dora"
        )
    if is_quantized(model):
        prepare_model_for_kbit_training(model, use_gradient_checkpointing=gradient_checkpointing)
    elif gradient_checkpointing:
        model.enable_input_require_grads()
    adapted = get_peft_model(model, _for_scorer(model, peft_config) if is_scorer(model) else peft_config)
    name_base(adapted)
    return adapted


def _for_scorer(model: PreTrainedModel, peft_config: PeftConfig) -> PeftConfig:
    """`peft_config` under which the reward head trains and is saved with the adapter, and the auxiliary head is not.

    PEFT does the first only for the task SEQ_CLS: under another task, or none, a new head stays random and is lost. And
    only for the head itself: of an encoder, layers between it and the backbone may be as new.
    """
    config: Any = copy.deepcopy(peft_config)
    if config.task_type != "SEQ_CLS":
        logger.info("task_type was %s: SEQ_CLS it is, so that the reward head trains", config.task_type)
        config.task_type = "SEQ_CLS"
    below = layers_below_head(model)
    if below and hasattr(config, "modules_to_save"):
        config.modules_to_save = sorted({*(config.modules_to_save or ()), *below})
    spared = [*below, *([LM_HEAD] if hasattr(model, LM_HEAD) else [])]
    if spared and hasattr(config, "exclude_modules"):
        excluded = config.exclude_modules or []
        if isinstance(excluded, str):
            config.exclude_modules = "|".join([f"(?:{excluded})", *(rf".*{re.escape(name)}(\..*)?" for name in spared)])
        else:
            config.exclude_modules = [*excluded, *_with_parts(model, spared)]
    return config


def _with_parts(model: nn.Module, names: list[str]) -> list[str]:
    """Names of modules and of all that is in them."""
    return [f"{name}.{part}".rstrip(".") for name in names for part, _ in model.get_submodule(name).named_modules()]


def _from_pretrained(auto: Any, source: str, quantization_config: Any, kwargs: dict[str, Any]) -> Any:
    options = {"dtype": torch.float32, "trust_remote_code": False, "use_safetensors": True} | kwargs
    if isinstance(options["dtype"], str) and options["dtype"] != "auto":
        options["dtype"] = _dtype(options["dtype"])
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    if _is_adapter(source):
        check_adapter(PeftConfig.from_pretrained(source))
        base = base_of(source)
        model = _on_base(auto, base).from_pretrained(source, is_trainable=True, **options)
        name_base(model, base)
    else:
        model = _complete(auto, source, options)
    if isinstance(model, nn.Module):
        stop_rescaling(model)
        repair_generation_config(model)
        if is_quantized(model):
            keep_differentiable(model)
    return model


def _on_base(auto: Any, base: str) -> Any:
    """PEFT's loader of adapters, with the base that it is given instead of the one that the adapter's config names."""

    class Base:
        @staticmethod
        def from_pretrained(_: str, **options: Any) -> Any:
            return auto._target_class.from_pretrained(base, **options)

    return type(auto.__name__, (auto,), {"_target_class": Base})


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
    # A trainer that ran in mixed precision left its autocast around `forward`, for every later use of the model.
    return extract_model_from_parallel(model, keep_fp32_wrapper=False)


def _is_adapter(source: str) -> bool:
    if Path(source).is_dir():
        return (Path(source) / "adapter_config.json").is_file()
    return find_adapter_config_file(source) is not None  # a hub id


def _restore_head(model: PreTrainedModel, folder: Path) -> None:
    """Read a saved head back in float32: loading a half-precision checkpoint rounds it with the rest."""
    head, prefix = reward_head_of(model), f"{head_name(model)}."
    if _is_adapter(str(folder)):
        copies = getattr(head, "modules_to_save", None) or {}  # PEFT trains a copy of the head
        head, prefix = next(iter(copies.values()), head), f"base_model.model.{prefix}"
    parameters = {f"{prefix}{name}": parameter for name, parameter in head.named_parameters()}
    for file, names in _names_by_file(folder, set(parameters)).items():
        with safe_open(file, framework="pt") as weights, torch.no_grad():
            for name in names:
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

"""Puts fresh adapters on models: on a reward model so that its head trains and is saved with the adapter."""

from __future__ import annotations

import copy
import logging
import re
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import PreTrainedModel

from .heads import LM_HEAD, is_scorer, layers_below_head
from .modes import is_quantized
from .peft_adapters import name_base

logger = logging.getLogger(__name__)


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

"""Puts fresh adapters on models: on a reward model so that its head trains and is saved with the adapter."""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model, prepare_model_for_kbit_training
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from .heads import LM_HEAD, is_scorer, layers_below_head
from .modes import evaluating, is_quantized, training, without_dropout
from .peft_adapters import name_base, preserved_adapter_state, rewrites_base

logger = logging.getLogger(__name__)

TRIED = 8
"""Tokens on which an adapter is tried."""


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
    with warnings.catch_warnings():
        # PEFT asks transformers for what it calls otherwise now, which is nothing that a user could mend.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.* is deprecated", category=FutureWarning)
        adapted = get_peft_model(model, _for_scorer(model, peft_config) if is_scorer(model) else peft_config)
    name_base(adapted)
    return adapted


def check_trains(model: Any) -> None:
    """Refuse to train an adapter that would train as another than it is, or under which a row is not itself.

    Of LoRA that is known; every other kind is tried with weights as training would make them: a fresh one is as a rule
    zero, and shows nothing.

    Raises:
        ValueError: it does something between steps, has a loss of its own, draws random numbers, or lets a token see
            those that follow it, or another row.
    """
    if not isinstance(model, PeftModel):
        return
    config: Any = model.active_peft_config
    kind = PeftType(config.peft_type).value
    if hasattr(PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type], "update_and_allocate"):
        reason = f"{kind} moves its ranks between layers from step to step, which is not done here"
    elif getattr(config, "monteclora_config", None):
        reason = "MonteCLoRA adds a loss of its own, which is not added here"
    elif config.peft_type == PeftType.LORA or _is_spread(model) or not (found := _found_by_trial(model)):
        return
    else:
        reason = f"{kind} {found}"
    raise ValueError(
        f"{reason}: what it trains would be another model than the one that log-probs are of. Take another adapter, "
        "such as LoRA, or go on from prefopt.models.merge_adapter(model)"
    )


@torch.no_grad()
def _found_by_trial(model: PeftModel) -> str:
    """How the states of a few tokens depend on other things than the tokens before them, "" if they do not."""
    inner: Any = model.get_base_model()
    ids = (torch.arange(2 * TRIED, device=inner.device) % inner.config.get_text_config().vocab_size).view(2, TRIED)

    def states(rows: Tensor) -> Tensor:
        return inner.base_model(input_ids=rows)[0][0, : TRIED // 2].float()

    with training(model), without_dropout(model), _disturbed(model), torch.random.fork_rng(_cuda(model)):
        first, again, beside, shorter = (states(rows) for rows in (ids[:1], ids[:1], ids, ids[:1, : TRIED // 2]))
    allowed = (1e-3 if inner.dtype == torch.float32 else 0.1) * float(first.std())
    if float((first - again).abs().max()) > allowed:
        return "draws random numbers in each forward pass"
    if float((first - beside).abs().max()) > allowed:
        return "lets one row change another"
    if not is_scorer(inner) and float((first - shorter).abs().max()) > allowed:
        return "lets a token see those that follow it"
    return ""


@contextmanager
def _disturbed(model: nn.Module) -> Iterator[None]:
    """Let the weights of an adapter be as after some training inside the block; copies of whole layers stay."""
    own = {n: p for n, p in model.named_parameters() if p.requires_grad and ".modules_to_save." not in n}
    before = {name: parameter.detach().clone() for name, parameter in own.items()}
    generator = torch.Generator().manual_seed(0)
    try:
        for parameter in own.values():
            if parameter.is_floating_point():
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * 0.1)
        yield
    finally:
        for name, parameter in own.items():
            parameter.copy_(before[name])


def _cuda(model: nn.Module) -> list[torch.device]:
    return list({p.device for p in model.parameters() if p.device.type == "cuda"})


@torch.no_grad()
def warn_of_start(model: PeftModel) -> None:
    """Say so where a fresh adapter makes another model of its base at once, as those do that begin at random.

    The reference is the base then, and the policy does not start from it.

    Args:
        model: not yet wrapped.
    """
    config: Any = model.active_peft_config
    if rewrites_base(config) or _is_spread(model):
        return
    row = torch.arange(TRIED, device=model.device)[None] % model.config.get_text_config().vocab_size
    with evaluating(model), preserved_adapter_state(model):
        adapted = model(input_ids=row, use_cache=False).logits
        with model.disable_adapter():
            base = model(input_ids=row, use_cache=False).logits
    difference, size = float((adapted - base).abs().max()), float(base.float().std())
    if difference > (1e-3 if base.dtype == torch.float32 else 0.1) * size:
        logger.warning(
            "a fresh %s adapter with these settings changes the model before it has learnt anything: logits of "
            "standard deviation %.2g by up to %.2g. Log-ratios compare with the model that was handed in, from which "
            "training does not start; LoRA begins as nothing with init_lora_weights=True, FourierFT and C3A with "
            "init_weights=True",
            PeftType(config.peft_type).value,
            size,
            difference,
        )


def _is_spread(model: nn.Module) -> bool:
    """Whether processes share the weights, so that no one of them can run the model alone."""
    spread = any(isinstance(module, FSDPModule) for module in model.modules())
    return spread or any(hasattr(parameter, "ds_id") for parameter in model.parameters())


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

"""What stands around a model, such as DDP, FSDP, PEFT or compilation: take it off, or compute something under it.

`unwrap` finds the transformers model that is to be run, and `run_under_wrapper` runs a computation of ours where the
wrappers expect the model's forward, so that they synchronise gradients and gather weights for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftConfig, PeftModel, PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from torch.distributed.fsdp import FSDPModule


def unwrap(model: nn.Module) -> nn.Module:
    """Find the transformers model under every wrapper. Its adapters stay active, since they are in its layers.

    Raises:
        ValueError: an adapter outside of the layers, such as prompt tuning.
    """
    model = unwrap_parallel(model)
    if not isinstance(model, PeftModel):
        return model
    check_adapter(model.active_peft_config)
    return model.get_base_model()


def check_adapter(config: Any) -> None:
    """Refuse an adapter that is not in the layers of a model alone, which a packed forward would run without.

    Raises:
        ValueError: it is such a one, or no adapter's config at all.
    """
    if not isinstance(config, PeftConfig):
        raise ValueError(f"peft_config={config!r}: give a config of PEFT's, such as LoraConfig(r=16)")
    if config.is_prompt_learning or config.peft_type == PeftType.ADAPTION_PROMPT:
        kind = PeftType(config.peft_type).value
        raise ValueError(f"{kind} changes the prompt, not the layers: use an adapter such as LoRA")
    if reason := _beside_layers(config):
        raise ValueError(
            f"{reason}, and a model runs here by its layers alone, which would be another model: use an adapter such "
            "as LoRA"
        )


def _beside_layers(config: Any) -> str:
    """What an adapter does around the layers that PEFT puts it in, "" if it does nothing."""
    if getattr(config, "alora_invocation_tokens", None):
        return "an activated LoRA (alora_invocation_tokens) begins in the middle of a row"
    tuner: Any = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
    if tuner.forward is BaseTuner.forward or config.peft_type == PeftType.ADALORA:  # which adds to a loss alone
        return ""
    return f"{PeftType(config.peft_type).value} computes more than its layers do"


def unwrap_parallel(model: nn.Module) -> Any:
    """Take off DDP, FSDP and compilation; a PEFT model stays one."""
    return extract_model_from_parallel(model, keep_torch_compile=False)


def base_transformer(model: nn.Module) -> nn.Module:
    """Find the transformers model under every wrapper, of whatever kind its adapter is."""
    model = unwrap_parallel(model)
    return model.get_base_model() if isinstance(model, PeftModel) else model


def own_forward(model: nn.Module) -> Callable[..., Any]:
    """A model's forward as it was before accelerate wrapped it in autocast and in a conversion of what it returns.

    The caller decides on the precision: autocast in between would compute a head and the logits that it is compared
    with in different precisions.
    """
    return model.__dict__.get("_original_forward", model.forward)


@contextmanager
def patched_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace `module.forward` inside the block; hooks around the forward run as always."""
    own = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        module.__dict__.pop("forward", None)
        if own is not None:
            module.__dict__["forward"] = own


def run_under_wrapper(model: nn.Module, inner: nn.Module, compute: Callable[[], Any]) -> Any:
    """Call `model` and run `compute` where `inner.forward` would have run.

    Wrappers such as DDP and FSDP do their work around the forward of what they wrap: a computation that goes past them
    leaves processes out of step without an error.

    Args:
        model: as a trainer wraps it.
        inner: `unwrap(model)`.
        compute: may call `inner`. Its tensors have to come back in a dict, where FSDP finds those that a backward pass
            will start from.

    Returns:
        What `compute` returned.
    """
    own = own_forward(inner)

    @torch.compiler.disable  # rows of a new shape each time, and a search for layouts, are nothing to compile
    def computation(*_: object, **__: object) -> Any:
        with patched_forward(inner, own):
            return compute()

    with patched_forward(inner, computation):
        result = model()
    if not torch.is_grad_enabled():
        _reshard(model)
    return result


def _reshard(model: nn.Module) -> None:
    """Drop the gathered weights that FSDP keeps for a backward pass, where there will be none.

    While they are in place they are the parameters of the model, and an optimizer created then would train copies.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()

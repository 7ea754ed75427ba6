"""Computing inside a wrapped model (DDP, FSDP, PEFT, compiled): what is under the wrappers, and standing in for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule


def bare(model: nn.Module) -> nn.Module:
    """The transformers model under every wrapper; adapters stay active, since they live in its layers.

    Raises:
        ValueError: an adapter that is no part of the layers, such as prompt tuning.
    """
    from accelerate.utils import extract_model_from_parallel
    from peft import PeftModel

    model = extract_model_from_parallel(model, keep_torch_compile=False)
    if not isinstance(model, PeftModel):
        return model
    if model.active_peft_config.is_prompt_learning:
        kind = model.active_peft_config.peft_type.value
        raise ValueError(f"{kind} changes the prompt, not the layers: use an adapter such as LoRA")
    return model.get_base_model()


def own_forward(inner: nn.Module) -> Callable[..., Any]:
    """The model's forward as it was before accelerate wrapped it in autocast and a conversion of what comes out.

    Precision is the caller's business; in between, the two would part a head from the logits that it is compared with.
    """
    return inner.__dict__.get("_original_forward", inner.forward)


@contextmanager
def standing_in(module: nn.Module, stand_in: Callable[..., Any]) -> Iterator[None]:
    """`module.forward` is `stand_in` for a while; hooks around it run as always."""
    own = module.__dict__.get("forward")
    module.__dict__["forward"] = stand_in
    try:
        yield
    finally:
        module.__dict__.pop("forward", None)
        if own is not None:
            module.__dict__["forward"] = own


def inside(model: nn.Module, inner: nn.Module, compute: Callable[[], Any]) -> Any:
    """Run `compute` in the place of `inner.forward` while calling `model`.

    Wrappers such as DDP and FSDP do their work around the forward of what they wrap; computing beside them leaves
    ranks out of step with no error. So the wrapper is called, and finds our computation where the model's was. Tensors
    have to come back in a dict, where FSDP finds those that a backward pass will start from.
    """
    own = own_forward(inner)

    @torch.compiler.disable  # rows of a new shape each time, and a search for layouts, are nothing to compile
    def once(*_: object, **__: object) -> Any:
        with standing_in(inner, own):
            return compute()

    with standing_in(inner, once):
        found = model()
    if not torch.is_grad_enabled():
        _reshard(model)
    return found


def _reshard(model: nn.Module) -> None:
    """Drop the gathered weights that FSDP keeps for a backward pass, where there will be none.

    While they are in place they are the parameters of the model, and an optimizer created then would train copies.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()

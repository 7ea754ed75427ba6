"""Models whose weights are spread over processes by FSDP2, as accelerate spreads the one that trains."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from accelerate import Accelerator
from accelerate.utils import fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy


def is_sharded(model: nn.Module) -> bool:
    """Whether each process holds a part of the weights only, by FSDP2 or by ZeRO-3."""
    return any(isinstance(module, FSDPModule) for module in model.modules()) or any(
        hasattr(parameter, "ds_id") for parameter in model.parameters()
    )


def shard(model: nn.Module, accelerator: Accelerator) -> None:
    """Spread a model that does not train over the processes, in place. Without FSDP2 nothing is done.

    Its layers are looked for in the model itself: accelerate keeps the names of the layers of the first model that it
    meets, and would not find them in one of another family.
    """
    if not accelerator.is_fsdp2:
        return
    plugin = accelerator.state.fsdp_plugin
    own = copy.copy(plugin)
    own.transformer_cls_names_to_wrap, own.auto_wrap_policy = None, transformer_auto_wrap_policy
    accelerator.state.fsdp_plugin = own
    try:
        fsdp2_prepare_model(accelerator, model)
    finally:
        accelerator.state.fsdp_plugin = plugin


def keep_sharded(model: nn.Module, accelerator: Accelerator) -> None:
    """Let accelerate take a model that trains, and is spread over the processes already, as it is.

    Otherwise it would look for the layers to wrap by their classes, which wrapping has renamed.
    """
    if accelerator.is_fsdp2 and isinstance(model, FSDPModule):
        accelerator.state.fsdp_plugin.auto_wrap_policy = None


def load_whole(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load whole weights, which every process has, into a model that may be spread over processes."""
    if not is_sharded(model):
        model.load_state_dict(weights)
        return
    set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True))

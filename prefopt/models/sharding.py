"""Models whose weights are spread over processes by FSDP2, as accelerate spreads the one that trains."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.utils import fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from .auxiliary import auxiliary_module, policy_only


def is_sharded(model: nn.Module) -> bool:
    """Whether each process holds a part of the weights only, by FSDP2 or by ZeRO-3."""
    return any(isinstance(module, FSDPModule) for module in model.modules()) or any(
        hasattr(parameter, "ds_id") for parameter in model.parameters()
    )


def shard(model: nn.Module, accelerator: Accelerator, *, trains: bool = False) -> None:
    """Spread a model over the processes, in place, where accelerate does not do it, or not yet.

    Without FSDP2 nothing is done; nor to a model that trains where FSDP itself is to checkpoint its activations, which
    accelerate can only arrange before.

    Its layers are looked for in the model itself: accelerate keeps the names of the layers of the first model that it
    meets, and would not find them in one of another family.
    """
    plugin: Any = getattr(accelerator.state, "fsdp_plugin", None)
    if not accelerator.is_fsdp2 or (plugin.activation_checkpointing and trains):
        return
    own = copy.copy(plugin)
    own.transformer_cls_names_to_wrap, own.auto_wrap_policy = None, transformer_auto_wrap_policy
    accelerator.state.fsdp_plugin = own
    try:
        fsdp2_prepare_model(accelerator, model)
    finally:
        accelerator.state.fsdp_plugin = plugin


def shard_policy(model: nn.Module, accelerator: Accelerator) -> None:
    """Spread a policy that trains over the processes, in place, and its critic, which is left out of its state dict."""
    holder = auxiliary_module(model)
    for module in () if holder is None else holder.children():
        shard(module, accelerator)
    with policy_only(model):
        shard(model, accelerator, trains=True)


def keep_sharded(model: nn.Module, accelerator: Accelerator) -> None:
    """Let accelerate take a model that trains, and is spread over the processes already, as it is.

    Otherwise it would look for the layers to wrap by their classes, which wrapping has renamed.
    """
    if accelerator.is_fsdp2 and isinstance(model, FSDPModule):
        _check_parts(model, accelerator.num_processes)
        accelerator.state.fsdp_plugin.auto_wrap_policy = None


def _check_parts(model: nn.Module, processes: int) -> None:
    """Refuse weights of which some processes have nothing: accelerate would take them for one in its optimizer.

    Raises:
        ValueError: there are several; the message names one.
    """
    trained = {name: p.shape[0] for name, p in model.named_parameters() if p.requires_grad and p.dim()}
    small = {name: rows for name, rows in trained.items() if -(-rows // processes) * (processes - 1) >= rows}
    if processes > 1 and len(small) > 1:
        name, rows = next(iter(small.items()))
        raise ValueError(
            f"{name} has {rows} rows, too few for a part in each of {processes} processes: take fewer processes, or an "
            "adapter of a rank that they divide"
        )


def load_whole(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load whole weights, which every process has, into a model that may be spread over processes."""
    if not is_sharded(model):
        model.load_state_dict(weights)
        return
    set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True))

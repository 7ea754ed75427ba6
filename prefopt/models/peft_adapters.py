"""Several LoRA adapters on one backbone, of the policy, the reference and the critic: each is used and saved alone.

PEFT changes every adapter layer below a model, and flips which weights take gradients with each change; it also saves
every adapter that it knows. Here adapters are switched, copied and saved one at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from .auxiliary import CRITIC, policy_only
from .wrappers import base_transformer, unwrap_parallel

REFERENCE_ADAPTER = "prefopt_reference"
"""The adapter that holds the policy's adapter as it was before training."""
AUXILIARY_ADAPTERS = (REFERENCE_ADAPTER, CRITIC)
"""Adapters that are no part of the policy and are never saved with it."""


def adapter_layers(model: nn.Module) -> list[Any]:
    """The policy's layers that carry adapters, or copies of their own weights. A separate critic's are left out."""
    with policy_only(model):
        return [m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]


@contextmanager
def using_adapter(model: nn.Module, adapter: str) -> Iterator[None]:
    """Let a model's layers use this adapter inside the block. Which weights take gradients stays as it is.

    Raises:
        ValueError: no layer has the adapter, as with adapters that are not in the layers.
    """
    layers = adapter_layers(model)
    if not any(adapter in _adapter_names(layer) for layer in layers):
        raise ValueError(f"no layer of {type(base_transformer(model)).__name__} has an adapter {adapter!r}: use LoRA")
    with layers_using_adapter(layers, adapter):
        yield


@contextmanager
def layers_using_adapter(layers: list[Any], adapter: str) -> Iterator[None]:
    """Let these layers use this adapter inside the block; a layer without it computes as the base model does.

    Args:
        layers: `adapter_layers` of a model, which a caller looks up once for many blocks.
    """
    before = [layer._active_adapter for layer in layers]
    for layer in layers:
        layer._active_adapter = [adapter]
    try:
        yield
    finally:
        for layer, names in zip(layers, before, strict=True):
            layer._active_adapter = names


def _adapter_names(layer: Any) -> Collection[str]:
    return layer._adapters if isinstance(layer, AuxiliaryTrainingWrapper) else layer._all_available_adapter_names()


@contextmanager
def preserved_adapter_state(model: nn.Module) -> Iterator[None]:
    """Restore, after the block, which weights take gradients and which adapter is active.

    PEFT's loading, adding, switching and disabling of adapters change both.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    active_in_layers = [(layer, layer._active_adapter) for layer in layers]
    active_in_models = [(part, part.active_adapter) for part in _peft_models(model)]
    try:
        yield
    finally:
        for part, name in active_in_models:
            part.active_adapter = name
        for layer, name in active_in_layers:
            layer._active_adapter = name
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _peft_models(model: nn.Module) -> list[Any]:
    """The objects of PEFT that keep a name of the active adapter beside those of the layers."""
    return [model, model.base_model] if isinstance(model, PeftModel) else []


def rewrites_base(config: Any) -> bool:
    """Whether the adapter's initialisation changes the weights under it, as PiSSA and its kin do."""
    how = getattr(config, "init_lora_weights", True)
    return isinstance(how, str) and how.lower().startswith(("pissa", "olora", "loftq", "corda", "lora_ga"))


def new_adapter(model: PeftModel, name: str, config: Any) -> None:
    """Add an adapter that takes no gradients yet; all else stays as it is, the base weights too."""
    config = copy.deepcopy(config)
    if isinstance(getattr(config, "init_lora_weights", None), str):
        config.init_lora_weights = True  # a second rewriting of the base would change the first adapter's model
    with policy_only(model), preserved_adapter_state(model):
        model.add_adapter(name, config)
    for key, parameter in model.named_parameters():
        if name in key.split("."):
            parameter.requires_grad_(False)


def copy_adapter(model: PeftModel) -> None:
    """Add the adapter REFERENCE_ADAPTER with the weights of the active one; it never takes gradients."""
    if REFERENCE_ADAPTER in model.peft_config:  # left by an earlier round
        remove_adapter(model, REFERENCE_ADAPTER)
    name = model.active_adapter
    new_adapter(model, REFERENCE_ADAPTER, model.peft_config[name])
    with policy_only(model), preserved_adapter_state(model):
        weights = get_peft_model_state_dict(model, adapter_name=name)
        set_peft_model_state_dict(model, weights, adapter_name=REFERENCE_ADAPTER)


def remove_adapter(model: PeftModel, name: str) -> None:
    """Take an adapter off, and with it what PEFT put around layers of the base that only this adapter needed."""
    with policy_only(model), preserved_adapter_state(model):
        model.delete_adapter(name)
        for path, layer in list(model.named_modules()):
            if isinstance(layer, AuxiliaryTrainingWrapper) and not _adapter_names(layer):
                model.set_submodule(path, cast(nn.Module, layer.original_module))
            elif isinstance(layer, BaseTunerLayer) and not _adapter_names(layer):
                model.set_submodule(path, layer.get_base_layer())


def adapter_weights(model: PeftModel, name: str) -> dict[str, Tensor]:
    """An adapter's weights under the names that a saved folder gives them: the weights themselves, no copies."""
    with policy_only(model):
        return get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)


@contextmanager
def saving_policy_only(model: nn.Module) -> Iterator[None]:
    """Let `save_pretrained` of a PEFT model write the policy's adapter alone inside the block.

    The other adapters stay registered meanwhile: by their names PEFT tells foreign weights from its own.
    """
    inner = unwrap_parallel(model)
    if not isinstance(inner, PeftModel):  # the critic is in no state dict of a plain model's
        yield
        return
    before = inner.__dict__.get("save_pretrained")
    always_save_policy_only(inner)
    try:
        yield
    finally:
        inner.__dict__.pop("save_pretrained")
        if before is not None:
            inner.__dict__["save_pretrained"] = before


def always_save_policy_only(model: PeftModel) -> None:
    """As `saving_policy_only`, until `model.__dict__["save_pretrained"]` is deleted."""
    model.__dict__["save_pretrained"] = partial(_save_policy_only, model)


def _save_policy_only(model: PeftModel, *args: Any, **kwargs: Any) -> None:
    names = [name for name in model.peft_config if name not in AUXILIARY_ADAPTERS]
    with policy_only(model):
        type(model).save_pretrained(model, *args, **{"selected_adapters": names} | kwargs)

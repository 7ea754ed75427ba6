"""Several adapters on one backbone, of the policy, the reference and the critic: how each is used and saved alone.

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

from .auxiliary import CRITIC, alone, transformer_of, unwrapped

COPY = "prefopt_reference"
"""The adapter that holds the policy as it was."""
BESIDE = (COPY, CRITIC)
"""Adapters that are not the policy's."""


def adapter_layers(model: nn.Module) -> list[Any]:
    """Layers of the policy that carry adapters, or copies of their own weights; the critic's own are not among them."""
    with alone(model):
        return [m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]


@contextmanager
def active(model: nn.Module, adapter: str) -> Iterator[None]:
    """`adapter` is what the layers use for a while. Which weights take gradients stays as it is.

    Raises:
        ValueError: no layer has it, as with adapters that are no layers.
    """
    layers = adapter_layers(model)
    if not any(adapter in _names(layer) for layer in layers):
        raise ValueError(f"no layer of {type(transformer_of(model)).__name__} has an adapter {adapter!r}: use LoRA")
    with switched(layers, adapter):
        yield


@contextmanager
def switched(layers: list[Any], adapter: str) -> Iterator[None]:
    """As `active`, for layers that were looked up before: one without this adapter computes as the base model does."""
    before = [layer._active_adapter for layer in layers]
    for layer in layers:
        layer._active_adapter = [adapter]
    try:
        yield
    finally:
        for layer, names in zip(layers, before, strict=True):
            layer._active_adapter = names


def _names(layer: Any) -> Collection[str]:
    return layer._adapters if isinstance(layer, AuxiliaryTrainingWrapper) else layer._all_available_adapter_names()


@contextmanager
def same_gradients(model: nn.Module) -> Iterator[None]:
    """Which weights take gradients and which adapter is active are, after, what they were: PEFT's loading, adding,
    switching and disabling of adapters change both."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    names = [(layer, layer._active_adapter) for layer in layers]
    shown = [(part, part.active_adapter) for part in _tuners(model)]
    try:
        yield
    finally:
        for part, name in shown:
            part.active_adapter = name
        for layer, name in names:
            layer._active_adapter = name
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _tuners(model: nn.Module) -> list[Any]:
    return [model, model.base_model] if isinstance(model, PeftModel) else []


def rewrites_base(config: Any) -> bool:
    """Initialisations (PiSSA and its kin) that change the weights under the adapter."""
    how = getattr(config, "init_lora_weights", True)
    return isinstance(how, str) and how.lower().startswith(("pissa", "olora", "loftq", "corda", "lora_ga"))


def new_adapter(model: PeftModel, name: str, config: Any) -> None:
    """Add an adapter that takes no gradients yet; all else stays as it is, the base weights too."""
    config = copy.deepcopy(config)
    if isinstance(getattr(config, "init_lora_weights", None), str):
        config.init_lora_weights = True  # a second rewriting of the base would change the first adapter's model
    with alone(model), same_gradients(model):
        model.add_adapter(name, config)
    for key, parameter in model.named_parameters():
        if name in key.split("."):
            parameter.requires_grad_(False)


def copy_adapter(model: PeftModel) -> None:
    """Add adapter COPY with the weights of the active one; it never takes gradients."""
    if COPY in model.peft_config:  # left by an earlier round
        remove_adapter(model, COPY)
    name = model.active_adapter
    new_adapter(model, COPY, model.peft_config[name])
    with alone(model), same_gradients(model):
        set_peft_model_state_dict(model, get_peft_model_state_dict(model, adapter_name=name), adapter_name=COPY)


def remove_adapter(model: PeftModel, name: str) -> None:
    """Take an adapter off, and the layers around those of the base that only this adapter needed."""
    with alone(model), same_gradients(model):
        model.delete_adapter(name)
        for path, layer in list(model.named_modules()):
            if isinstance(layer, AuxiliaryTrainingWrapper) and not _names(layer):
                model.set_submodule(path, cast(nn.Module, layer.original_module))
            elif isinstance(layer, BaseTunerLayer) and not _names(layer):
                model.set_submodule(path, layer.get_base_layer())


def weights_of(model: PeftModel, name: str) -> dict[str, Tensor]:
    """An adapter's weights under the names that a saved folder gives them: the weights themselves, no copies."""
    with alone(model):
        return get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)


@contextmanager
def saved_alone(model: nn.Module) -> Iterator[None]:
    """`save_pretrained` of a PEFT model writes the policy's adapter for a while, and nothing of what is beside it.

    The other adapters stay registered meanwhile: by their names PEFT tells foreign weights from its own.
    """
    inner = unwrapped(model)
    if not isinstance(inner, PeftModel):  # the critic is in no state dict of a plain model's
        yield
        return
    before = inner.__dict__.get("save_pretrained")
    always_alone(inner)
    try:
        yield
    finally:
        inner.__dict__.pop("save_pretrained")
        if before is not None:
            inner.__dict__["save_pretrained"] = before


def always_alone(model: PeftModel) -> None:
    """As `saved_alone`, until `model.__dict__["save_pretrained"]` is deleted."""
    model.__dict__["save_pretrained"] = partial(_save_alone, model)


def _save_alone(model: PeftModel, *args: Any, **kwargs: Any) -> None:
    names = [name for name in model.peft_config if name not in BESIDE]
    with alone(model):
        type(model).save_pretrained(model, *args, **{"selected_adapters": names} | kwargs)

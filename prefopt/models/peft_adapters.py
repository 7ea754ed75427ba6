"""Several LoRA adapters on one backbone, of the policy, the reference and the critic: each is used and saved alone.

PEFT changes every adapter layer below a model, and flips which weights take gradients with each change; it also saves
every adapter that it knows. Here adapters are switched, copied and saved one at a time.

Under `ensure_weight_tying` PEFT puts an adapter on the embeddings, and views of its weights, transposed, on the tied
head. It does so for the first adapter of a model only, and a move to another device or dtype parts the two (0.21). A
copy has therefore weights of its own on either side, and what has parted is saved as two.
"""

from __future__ import annotations

import copy
import logging
import os
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from .auxiliary import CRITIC, policy_only
from .precision import cast_weights
from .wrappers import base_transformer, unwrap_parallel

logger = logging.getLogger(__name__)

REFERENCE_ADAPTER = "prefopt_reference"
"""The adapter that holds the policy's adapter as it was before training."""
AUXILIARY_ADAPTERS = (REFERENCE_ADAPTER, CRITIC)
"""Adapters that are no part of the policy and are never saved with it."""
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


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


def keep_base(config: Any) -> None:
    """Take out of a config what would rewrite the weights under a new adapter, as PiSSA and its kin do."""
    if isinstance(getattr(config, "init_lora_weights", None), str):
        config.init_lora_weights = True


def new_adapter(model: PeftModel, name: str, config: Any) -> None:
    """Add an adapter that takes no gradients yet; all else stays as it is, the base weights too."""
    config = copy.deepcopy(config)
    keep_base(config)  # a second rewriting of the base would change the first adapter's model
    with policy_only(model), preserved_adapter_state(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")  # the user has read it of the first
        model.add_adapter(name, config)
    for key, parameter in model.named_parameters():
        if name in key.split("."):
            parameter.requires_grad_(False)


def copy_adapter(model: PeftModel) -> None:
    """Add the adapter REFERENCE_ADAPTER with the weights of the active one; it never takes gradients.

    Raises:
        ValueError: PEFT made no place for some of the weights.
    """
    if REFERENCE_ADAPTER in model.peft_config:  # left by an earlier round
        remove_adapter(model, REFERENCE_ADAPTER)
    name = model.active_adapter
    new_adapter(model, REFERENCE_ADAPTER, untied_config(model, name))
    with preserved_adapter_state(model):
        load_adapter_weights(model, REFERENCE_ADAPTER, adapter_weights(model, name))


def load_adapter_weights(model: PeftModel, name: str, weights: dict[str, Tensor]) -> None:
    """Write weights, by the names that `adapter_weights` gives them, into an adapter.

    Raises:
        ValueError: the adapter has no place for some of them, which PEFT would leave out in silence.
    """
    with policy_only(model):
        result: Any = set_peft_model_state_dict(model, weights, adapter_name=name)
    left_out = result.unexpected_keys
    if left_out:
        raise ValueError(
            f"a copy of the adapter has no place for {', '.join(left_out[:3])} ({len(left_out)} weights in all): merge "
            "the adapter with prefopt.models.merge_adapter, or pass a ref_model"
        )


def untied_config(model: PeftModel, name: str) -> Any:
    """An adapter's config; under `ensure_weight_tying`, that of the same layers, each with weights of its own."""
    config: Any = copy.deepcopy(model.peft_config[name])
    if getattr(config, "target_modules_to_tie", None):
        layers = model.get_base_model().named_modules()
        config.target_modules = {path for path, layer in layers if isinstance(layer, LoraLayer) and name in layer.r}
        config.target_modules_to_tie, config.ensure_weight_tying = None, False
    return config


def copy_model(model: Any, dtype: torch.dtype | None = None) -> Any:
    """A deep copy of a model without its critic. Tied adapters are equal in it and no longer the same tensors.

    Args:
        dtype: of the copy's weights; by default each weight's own. No second copy in the model's dtype is made for it.
    """
    layers = [layer for layer in model.modules() if getattr(layer, "kwargs", {}).get("tied_adapter")]
    views = [layer.kwargs.pop("tied_adapter") for layer in layers]  # tensors with a gradient, which torch cannot copy
    try:
        with policy_only(model):
            return copy.deepcopy(model, {} if dtype is None else cast_weights(model, dtype))
    finally:
        for layer, view in zip(layers, views, strict=True):
            layer.kwargs["tied_adapter"] = view


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
    with policy_only(model), _loadable_configs(model, names):
        type(model).save_pretrained(model, *args, **{"selected_adapters": names} | kwargs)


@contextmanager
def _loadable_configs(model: PeftModel, names: list[str]) -> Iterator[None]:
    """Inside the block, let no config call adapters tied whose weights differ: loaded, one would replace the other."""
    before = dict(model.peft_config)
    for name in names:
        if _have_parted(model, name):
            logger.warning(
                "adapter %r is no longer the same on embeddings and head, since PEFT unties what it moves to another "
                "device or dtype: both sides are saved as they are, with ensure_weight_tying=False",
                name,
            )
            model.peft_config[name] = untied_config(model, name)
    try:
        yield
    finally:
        model.peft_config.update(before)


def _have_parted(model: PeftModel, name: str) -> bool:
    """Whether embeddings and head, which an adapter ties, have different adapters."""
    if not getattr(model.peft_config[name], "target_modules_to_tie", None):
        return False
    inner: Any = model.get_base_model()
    embedding, head = inner.get_input_embeddings(), inner.get_output_embeddings()
    if name not in getattr(head, "lora_A", {}):  # PEFT loaded it second, without what it has on the head
        return True
    sides = (
        (head.lora_A[name].weight, embedding.lora_embedding_B[name]),
        (head.lora_B[name].weight, embedding.lora_embedding_A[name]),
    )
    return not all(torch.equal(on_head, on_embedding.t()) for on_head, on_embedding in sides)


# ---- the base of a saved adapter -------------------------------------------------------------------------------------


def base_of(source: str) -> str:
    """The path or hub id of the model that a saved adapter belongs on.

    A relative path that is no folder from here is looked for from the adapter's folder upwards: it was written from
    another working directory, which most often is above both.

    Args:
        source: an adapter's folder or hub id.

    Raises:
        ValueError: the adapter names no base, or a path where there is none.
    """
    name = PeftConfig.from_pretrained(source).base_model_name_or_path
    if not name:
        raise ValueError(f"{source} names no base: write its path into base_model_name_or_path of adapter_config.json")
    if Path(name).is_dir() or not Path(source).is_dir():
        return name
    places = (parent / name for parent in Path(os.path.abspath(source)).parents)
    found = next((place for place in places if (place / "config.json").is_file()), None)
    if found is None and not _HUB_ID.fullmatch(name):
        raise ValueError(
            f"the base of the adapter {source} is no folder, neither here nor above the adapter: {name}. Write its "
            "path into base_model_name_or_path of adapter_config.json"
        )
    return name if found is None else str(found)


def name_base(model: Any, base: str | None = None) -> None:
    """Let a model's adapters name their base by its absolute path, by which a saved adapter loads from anywhere.

    Args:
        model: in which nothing is changed if it carries no adapter.
        base: path or hub id of the base, where the adapters may not name it rightly.
    """
    for config in getattr(model, "peft_config", {}).values():
        name = base or config.base_model_name_or_path
        config.base_model_name_or_path = os.path.abspath(name) if name and Path(name).is_dir() else name

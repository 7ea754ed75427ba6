"""The whole weights of a model of which each process holds a part, for who saves and loads it."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..utils.distributed import gathered, rank
from .checkpoint_names import weights_in
from .peft_adapters import AUXILIARY_ADAPTERS
from .wrappers import unwrap_parallel

WEIGHTS = "*model*.safetensors"
"""The files of a saved model or adapter."""


@contextmanager
def whole_weights(model: nn.Module, folder: Path) -> Iterator[dict[str, Tensor]]:
    """What a model is saved with, as `gathered_weights` has it: its state dict, or its adapters' part of it.

    Yields:
        name -> weight, on the CPU; in the processes that write nothing, {}.
    """
    with gathered_weights(_saved(unwrap_parallel(model)), folder) as weights:
        yield weights


@contextmanager
def gathered_weights(tensors: Mapping[str, Tensor], folder: Path) -> Iterator[dict[str, Tensor]]:
    """The whole of weights of which each process holds a part.

    They are gathered one after the other, and the first process puts each into a file, which it maps: so no process
    needs more memory than for its own part and one weight. Every process has to call it.

    Args:
        folder: for these files, which are gone afterwards.

    Yields:
        name -> weight, on the CPU; in the processes that write nothing, {}.

    Raises:
        OSError: a file could not be written; in the other processes a RuntimeError that quotes it.
    """
    error: OSError | None = None
    whole: dict[str, Tensor] = {}
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)  # tied weights are one
    try:
        for number, alike in enumerate(names.values()):
            weight = tensors[alike[0]].detach()
            weight = weight.full_tensor() if isinstance(weight, DTensor) else weight
            if rank() == 0 and error is None:
                try:
                    whole |= dict.fromkeys(alike, _mapped(weight, folder / str(number)))
                except OSError as problem:
                    error = problem  # the others go on gathering, and would wait
        for failure in gathered(repr(error) if error else None):
            if failure:
                raise error or RuntimeError(f"the first process could not write the model: {failure}")
        yield whole
    finally:
        whole.clear()
        if rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)


@torch.no_grad()
def load_whole_weights(model: nn.Module, folder: Path) -> None:
    """Load what `whole_weights` gave to be saved; each process keeps its own part, and reads one weight at a time.

    Raises:
        ValueError: the folder lacks weights of the model, or has others.
    """
    inner = unwrap_parallel(model)
    if not isinstance(inner, PeftModel):
        left = getattr(inner, "_keys_to_ignore_on_save", None) or ()
        return _load(inner.state_dict(keep_vars=True), weights_in(_files(folder), inner), folder, left)
    for adapter in _own_adapters(inner):
        # PEFT saves those that are not called so in folders of their own.
        there = folder if adapter == "default" else folder / adapter
        named = _adapter(inner, adapter)
        _load(named, weights_in(_files(there), nn.Module()), there, ())


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(WEIGHTS))


def _load(
    named: Mapping[str, Tensor], weights: Iterable[tuple[str, Tensor]], folder: Path, left: Collection[str]
) -> None:
    """Take weights from a folder, which must have all of them but those that are left out when saving."""
    loaded: set[int] = set()
    unexpected = []
    for name, weight in weights:
        if name in named and weight.shape == named[name].shape:
            copy_part(weight, named[name])
            loaded.add(id(named[name]))
        else:
            unexpected.append(name)
    missing = [name for name, tensor in named.items() if id(tensor) not in loaded and name not in left]
    if missing or unexpected:
        raise ValueError(
            f"{folder} has not this model's weights: missing {missing or 'none'}, unexpected {unexpected or 'none'}: "
            "take another checkpoint"
        )


def copy_part(whole: Tensor, own: Tensor) -> None:
    """Take the numbers of a weight, or this process's part of them, which others need not send."""
    if isinstance(own, DTensor):
        part = distribute_tensor(whole.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
        own.to_local().copy_(part.to_local())
    else:
        own.copy_(whole)


def _saved(model: nn.Module) -> dict[str, Tensor]:
    """The weights that belong into a saved folder, as the model holds and calls them."""
    weights = model.state_dict(keep_vars=True)
    if not isinstance(model, PeftModel):
        return weights
    wanted = {id(tensor) for name in _own_adapters(model) for tensor in _adapter(model, name).values()}
    return {name: tensor for name, tensor in weights.items() if id(tensor) in wanted}


def _own_adapters(model: PeftModel) -> list[str]:
    return [name for name in model.peft_config if name not in AUXILIARY_ADAPTERS]


def _adapter(model: PeftModel, adapter: str) -> dict[str, Tensor]:
    """The weights of an adapter, as the model holds them and their file calls them."""
    return get_peft_model_state_dict(model, state_dict=model.state_dict(keep_vars=True), adapter_name=adapter)


def _mapped(weight: Tensor, path: Path) -> Tensor:
    """A weight's numbers in a file of their own, which takes memory only while they are read."""
    if weight.numel() == 0:
        return weight.cpu()
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = weight.cpu().contiguous().flatten()
    with path.open("wb") as file:
        file.write(flat.view(torch.uint8).numpy().data)
    return torch.from_file(str(path), shared=True, size=flat.numel(), dtype=flat.dtype).view(weight.shape)

"""Copies of a model's weights in memory, a cheap hash that tells one model's from another's, and broken numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

Snapshot = dict[str, Tensor]

AT_ONCE = 2**22
"""Numbers looked at together: what that takes of memory comes on top of all weights."""
SHOWN = 4
"""Rows of a matrix that a message names; if more are broken it is the whole that matters."""


def snapshot(model: nn.Module) -> Snapshot:
    """Copy every weight that trains into the CPU's memory: an adapter's weights alone, where there is an adapter."""
    return {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def restore(model: nn.Module, weights: Snapshot) -> None:
    """Put a snapshot back into the model that it was taken of."""
    parameters = dict(model.named_parameters())
    for name, weight in weights.items():
        parameters[name].copy_(weight)


def spot_check(weights: Mapping[str, Tensor], every: int = 64) -> str:
    """Hash about `every` numbers of each tensor: enough to tell two trained models apart, and cheap for a large one."""
    hasher = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(weights.items()):
        flat = full_weight(tensor).flatten()
        numbers = flat[:: max(1, flat.numel() // every)].cpu().contiguous()
        hasher.update(name.encode() + numbers.view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def full_weight(tensor: Tensor) -> Tensor:
    """The whole of a weight of which FSDP or ZeRO-3 keeps a part in each process. Every process has to call it."""
    if hasattr(tensor, "ds_id"):
        with _gathered([tensor], None):
            return tensor.detach().clone()
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered_to_change(weights: Iterable[Tensor]) -> AbstractContextManager[Any]:
    """Have weights that ZeRO-3 spreads over processes whole in the block, in which every process changes them alike."""
    spread = [weight for weight in weights if hasattr(weight, "ds_id")]
    return _gathered(spread, 0) if spread else nullcontext()


def _gathered(weights: list[Tensor], changed_by: int | None) -> AbstractContextManager[Any]:
    import deepspeed  # type: ignore[import-not-found]

    return deepspeed.zero.GatheredParameters(weights, modifier_rank=changed_by)


def full_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape of the whole of a weight."""
    return tuple(getattr(tensor, "ds_shape", tensor.shape))


@torch.no_grad()
def broken_weights(parameters: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """The weights that hold a number that is not finite: name -> how many, and of a matrix in which rows.

    Of weights that processes share, each looks at its own part.
    """
    return {name: words for name, parameter in parameters if (words := _broken(parameter))}


def _broken(parameter: Tensor) -> str:
    local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    if not local.is_floating_point() or local.is_meta or local.element_size() < 2:
        return ""
    if all(bool(torch.isfinite(part).all()) for part in local.flatten().split(AT_ONCE)):
        return ""
    bad = ~torch.isfinite(local)
    count = f"{int(bad.sum()):,} of {local.numel():,} numbers"
    rows = bad.flatten(1).any(1).nonzero().flatten().tolist() if local.dim() > 1 else []
    where = f", row {', '.join(map(str, rows))}" if 0 < len(rows) <= SHOWN else ""
    return count + where

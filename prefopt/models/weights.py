"""The weights that train, set aside and put back. Knows no folder: what is kept on disk is a saved model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Snapshot = dict[str, Tensor]


def snapshot(model: nn.Module) -> Snapshot:
    """A copy of every weight that trains, in the machine's own memory: an adapter's alone, where there is one."""
    return {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def restore(model: nn.Module, weights: Snapshot) -> None:
    """Put a snapshot of this very model back."""
    own = dict(model.named_parameters())
    for name, weight in weights.items():
        own[name].copy_(weight)

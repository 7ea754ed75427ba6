"""NEFTune's noise of embeddings by each sequence's own length, arXiv:2310.05914, algorithm 1.

transformers' hook scales the noise by the width of the model's input. That is the length of the longest row where rows
are padded, and of all of them together where they are packed: how much noise a row gets would depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .modes import NEFTUNE


def has_noise(inner: Any) -> bool:
    """Whether the model's embeddings get noise as it is now: in training, between `activate` and `deactivate`."""
    embeddings = inner.get_input_embeddings()
    return embeddings is not None and embeddings.training and NEFTUNE in vars(embeddings)


@contextmanager
def noise_by_length(inner: Any, lengths: Callable[[], Tensor]) -> Iterator[None]:
    """Let noise be drawn inside the block as for each sequence alone, if the model's embeddings get any.

    A prompt that stands once for several responses gets one draw, for the longest of them.

    Args:
        inner: the model without its wrappers.
        lengths: gives how many tokens the sequence of each token of the input has, as `Layout.sequence_lengths`.
    """
    if not has_noise(inner):
        yield
        return
    embeddings = inner.get_input_embeddings()
    hook = embeddings.register_forward_hook(partial(_with_noise, lengths()))
    embeddings.training = False  # transformers' own hook then adds nothing
    try:
        yield
    finally:
        hook.remove()
        embeddings.training = True


def _with_noise(lengths: Tensor, embeddings: nn.Module, _: Any, states: Tensor) -> Tensor:
    """lengths: [B, T] or [B, 1]; states: [B, T, H]."""
    largest = getattr(embeddings, NEFTUNE) / (lengths * states.shape[-1]).sqrt()
    return states + (2 * torch.rand_like(states) - 1) * largest[..., None].to(states.dtype)

"""A model for which memory runs out where it sees too many tokens at a time, in the forward or the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

BEYOND = 2**55
"""Bytes that no machine has."""


def on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 24 GiB")


def on_the_cpu() -> None:
    """The allocator's own error."""
    torch.empty(BEYOND, dtype=torch.uint8)


class Crowd:
    """Lets memory run out wherever a model is run on more than `tokens` tokens, and counts how often.

    Args:
        model: a causal language model or a reward model, maybe with an adapter.
        backward: in the middle of the backward pass, when some weights have their gradient; else in the forward pass.
        learning: where gradients are taken, or where none are.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: int,
        *,
        backward: bool = False,
        learning: bool = True,
        fail: Callable[[], None] = on_a_gpu,
    ):
        self.tokens, self.backward, self.learning, self.fail = tokens, backward, learning, fail
        self.times = 0
        self.seen: list[int] = []
        """Tokens of each run of the model with gradients, or without, as `learning` says."""
        transformer: Any = next(m for m in model.modules() if isinstance(m, PreTrainedModel)).base_model
        transformer.layers[0].register_forward_hook(self._after_first_layer)

    def _after_first_layer(self, _: nn.Module, __: Any, output: Any) -> None:
        states: Tensor = output[0] if isinstance(output, tuple) else output
        if torch.is_grad_enabled() is not self.learning:
            return
        count = states.shape[:-1].numel()
        self.seen.append(count)
        if count <= self.tokens:
            return
        if self.backward:
            states.register_hook(lambda _: self._run_out())
        else:
            self._run_out()

    def _run_out(self) -> None:
        self.times += 1
        self.fail()

"""Attention over a packed row: which tokens see which, and the kernels that compute it.

A kernel is registered with transformers under a name, so that any model which looks its attention up there can run on a
packed row. The layout travels with the call, as an argument that the model hands down to its attention layers, and the
model's own attention rule (causal, sliding window, chunks) is asked for as a function of positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function

from ..utils.tensors import wide
from .layout import Layout, Packing

MaskFunction = Callable[[Any, Any, Any, Any], Any]
"""transformers' form of an attention rule: (batch, head, query position, key position) -> may it see it?"""


class Unsupported(ValueError):
    """A model whose attention asks for what the packed kernels do not compute."""


class Rule:
    """A model's attention rule on one packed row; transformers passes it to the layers where a mask would be."""

    def __init__(self, mask_function: MaskFunction):
        self.mask_function = mask_function
        self.masks: dict[tuple[int, int], Tensor] = {}

    @property
    def causal(self) -> bool:
        return self.mask_function is causal_mask_function

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        """bool, broadcast: a token at position `query` may see one at position `key` of its own sequence."""
        return self.mask_function(0, 0, query, key)

    def after(self, prompt: int, length: int, device: torch.device) -> Tensor:
        """[length, prompt + length]: what the tokens that follow `prompt` others may see."""
        if (prompt, length) not in self.masks:
            position = torch.arange(prompt + length, device=device)
            self.masks[prompt, length] = self.allows(position[prompt:, None], position[None])
        return self.masks[prompt, length]


def rule_for(mask_function: MaskFunction, use_vmap: bool = False, **_: Any) -> Rule:
    """What transformers calls to make a mask.

    Raises:
        Unsupported: a rule that asks for more than positions.
    """
    if use_vmap:
        raise Unsupported("its attention mask depends on more than positions")
    return Rule(mask_function)


@dataclass(frozen=True)
class Options:
    """What a model asks of its attention beside the rule: scores are cap tanh(scale q'k / cap), without cap if None."""

    scale: float
    dropout: float
    softcap: float | None


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: Options) -> Tensor:
    """q: [1, heads, L, D]; k, v: [1, key heads, S, D] -> [1, heads, L, D]. A mask of None is causal, with L = S."""
    shared = q.shape[1] != k.shape[1]
    if shared and (options.softcap is not None or (mask is not None and q.device.type != "cpu")):
        # Elsewhere than on a CPU only the slowest of torch's kernels takes both a mask and shared keys.
        k, v, shared = *(x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v)), False
    if options.softcap is None:
        return F.scaled_dot_product_attention(
            q, k, v, mask, options.dropout, is_causal=mask is None, scale=options.scale, enable_gqa=shared
        )
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril() if mask is None else mask
    scores = torch.tanh(q @ k.transpose(-1, -2) * (options.scale / options.softcap)) * options.softcap
    weights = wide(scores).masked_fill(~mask, -torch.inf).softmax(-1).to(q.dtype)
    return F.dropout(weights, options.dropout) @ v


def segments(q: Tensor, k: Tensor, v: Tensor, rule: Rule, packing: Packing, options: Options) -> Tensor:
    """One small attention for each response, in a loop: no work is done for what cannot be seen."""
    # The first response is computed with its prompt: one causal square.
    lengths = [n for p, rs in packing.segments for n in [p + sum(rs[:1]), *rs[1:]]] or [q.shape[2]]
    # `split`, not slices: the backward of a slice fills a zero tensor of full size.
    queries, keys, values = (x.split(lengths, 2) for x in (q, k, v))
    found, i = [], 0
    for p, rs in packing.segments or [(q.shape[2], [])]:
        square = None if rule.causal else rule.after(0, lengths[i], q.device)
        found.append(_attend(queries[i], keys[i], values[i], square, options))
        for j, length in enumerate(rs[1:], i + 1):
            key, value = (torch.cat([x[i][:, :, :p], x[j]], 2) for x in (keys, values))
            found.append(_attend(queries[j], key, value, rule.after(p, length, q.device), options))
        i += max(1, len(rs))
    return torch.cat([part.transpose(1, 2) for part in found], 1)


def dense(q: Tensor, k: Tensor, v: Tensor, rule: Rule, packing: Packing, options: Options) -> Tensor:
    """One attention over the whole row under a mask."""
    if not rule.masks:
        number = torch.arange(q.shape[2], device=q.device)
        query, key = number[:, None], number[None]
        allowed = rule.allows(packing.position[query], packing.position[key])
        rule.masks[0, 0] = packing.visible(query, key) & allowed
    return _attend(q, k, v, rule.masks[0, 0], options).transpose(1, 2)


KERNELS = {"segments": segments, "dense": dense}


def _attention(kernel: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, None]]:
    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        scaling: float | None = None,
        dropout: float = 0.0,
        softcap: float | None = None,
        layout: Layout | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """q: [1, heads, T, D]; k, v: [1, key heads, T, D] -> [1, T, heads, D]."""
        if not isinstance(attention_mask, Rule):
            raise Unsupported(f"{type(module).__name__} makes its own attention mask")
        if layout is None or layout.packing is None:
            raise Unsupported(f"{type(module).__name__} does not get the arguments that its model was called with")
        options = Options(query.shape[-1] ** -0.5 if scaling is None else scaling, dropout, softcap)
        return kernel(query, key, value, attention_mask, layout.packing, options), None

    return attend


def _name(kernel: str) -> str:
    return f"prefopt_{kernel}"


for _kernel, _compute in KERNELS.items():
    AttentionInterface.register(_name(_kernel), _attention(_compute))
    AttentionMaskInterface.register(_name(_kernel), rule_for)


CHECKPOINTS = ("_gradient_checkpointing_func", "checkpoint_fn")
"""Where modules keep the function that recomputes them: transformers' layers, torch's `checkpoint_wrapper`."""


@contextmanager
def packed_attention(model: nn.Module, kernel: str) -> Iterator[None]:
    """`model` attends by a packed kernel for a while, and again whenever checkpointed layers are recomputed."""
    configs = list({id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values())
    own = [(m, name, m.__dict__[name]) for m in model.modules() for name in CHECKPOINTS if name in m.__dict__]
    for module, name, recompute in own:
        setattr(module, name, _recomputed(recompute, configs, kernel))
    try:
        with _attending(configs, kernel):
            yield
    finally:
        for module, name, recompute in own:
            setattr(module, name, recompute)


@contextmanager
def _attending(configs: list[Any], kernel: str) -> Iterator[None]:
    own = [config._attn_implementation_internal for config in configs]
    for config in configs:
        config._attn_implementation_internal = _name(kernel)
    try:
        yield
    finally:
        for config, name in zip(configs, own, strict=True):
            config._attn_implementation_internal = name


def _recomputed(checkpoint: Any, configs: list[Any], kernel: str) -> Callable[..., Any]:
    """`checkpoint`, with what it runs attending by the kernel also during the backward pass, when all is restored."""

    def call(run: Callable[..., Any], *args: Any, **named: Any) -> Any:
        def attending(*inputs: Any, **others: Any) -> Any:
            with _attending(configs, kernel):
                return run(*inputs, **others)

        return checkpoint(attending, *args, **named)

    return call

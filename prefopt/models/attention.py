"""The attention kernels of packed rows: a response sees its own prompt and itself, and no other response.

A kernel is registered with transformers under a name, so that any model that looks its attention up there can run on a
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

from ..utils.tensors import upcast
from ._activation_checkpointing import checkpointed_context
from .layout import Layout, Packing

MaskFunction = Callable[[Any, Any, Any, Any], Any]
"""transformers' form of an attention rule: (batch, head, query position, key position) -> may the query see the key?"""


class Unsupported(ValueError):
    """A model asks its attention for something that the packed kernels do not compute."""


class Rule:
    """A model's attention rule on one packed row; transformers passes it to the layers where a mask would be.

    Args:
        mask_function: the rule, by positions.
    """

    def __init__(self, mask_function: MaskFunction):
        self.mask_function = mask_function
        self.masks: dict[tuple[int, int], Tensor] = {}
        """Masks that were computed for one layer, for the next ones."""

    @property
    def causal(self) -> bool:
        """Whether a token sees all earlier ones and itself, and the rule has no other limit."""
        return self.mask_function is causal_mask_function

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether a token at position `query` may see one at position `key` of its sequence: bool, broadcast."""
        return self.mask_function(0, 0, query, key)

    def after(self, prompt: int, length: int, device: torch.device) -> Tensor:
        """The mask of the last `length` tokens of a sequence that begins with `prompt` others.

        Returns:
            [length, prompt + length] bool
        """
        if (prompt, length) not in self.masks:
            position = torch.arange(prompt + length, device=device)
            self.masks[prompt, length] = self.allows(position[prompt:, None], position[None])
        return self.masks[prompt, length]


def rule_for(mask_function: MaskFunction, use_vmap: bool = False, **_: Any) -> Rule:
    """Make the rule of a packed row; transformers calls this in order to make a mask.

    Raises:
        Unsupported: the model's rule asks for more than positions.
    """
    if use_vmap:
        raise Unsupported("its attention mask depends on more than positions")
    return Rule(mask_function)


@dataclass(frozen=True)
class Options:
    """What a model asks of its attention beside the rule.

    Args:
        scale: attention scores are cap tanh(scale q'k / cap).
        dropout: rate of the attention weights that are dropped.
        softcap: the cap; None leaves out the tanh.
    """

    scale: float
    dropout: float
    softcap: float | None


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: Options) -> Tensor:
    """Compute one attention.

    Args:
        q: [1, heads, L, D]
        k, v: [1, key heads, S, D]
        mask: [L, S] bool; None is causal, with L = S.

    Returns:
        [1, heads, L, D]
    """
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
    weights = upcast(scores).masked_fill(~mask, -torch.inf).softmax(-1).to(q.dtype)
    return F.dropout(weights, options.dropout) @ v


def segments(q: Tensor, k: Tensor, v: Tensor, rule: Rule, packing: Packing, options: Options) -> Tensor:
    """Attend response by response, in a loop over small attentions: nothing is computed that cannot be seen.

    Args:
        q: [1, heads, T, D]
        k, v: [1, key heads, T, D]

    Returns:
        [1, T, heads, D]
    """
    # The first response is computed with its prompt: one causal square.
    lengths = [n for p, rs in packing.segments for n in [p + sum(rs[:1]), *rs[1:]]] or [q.shape[2]]
    # `split`, not slices: the backward of a slice fills a zero tensor of full size.
    queries, keys, values = (x.split(lengths, 2) for x in (q, k, v))
    attended, i = [], 0
    for p, rs in packing.segments or [(q.shape[2], [])]:
        square = None if rule.causal else rule.after(0, lengths[i], q.device)
        attended.append(_attend(queries[i], keys[i], values[i], square, options))
        for j, length in enumerate(rs[1:], i + 1):
            key, value = (torch.cat([x[i][:, :, :p], x[j]], 2) for x in (keys, values))
            attended.append(_attend(queries[j], key, value, rule.after(p, length, q.device), options))
        i += max(1, len(rs))
    return torch.cat([part.transpose(1, 2) for part in attended], 1)


def dense(q: Tensor, k: Tensor, v: Tensor, rule: Rule, packing: Packing, options: Options) -> Tensor:
    """Attend over the whole row at once, under a mask. Shapes as of `segments`."""
    if not rule.masks:
        numbers = torch.arange(q.shape[2], device=q.device)
        query, key = numbers[:, None], numbers[None]
        allowed = rule.allows(packing.position[query], packing.position[key])
        rule.masks[0, 0] = packing.visible(query, key) & allowed
    return _attend(q, k, v, rule.masks[0, 0], options).transpose(1, 2)


KERNELS = {"segments": segments, "dense": dense}
"""Every attention kernel of packed rows, by the name that the option `layout` takes."""


def _attention(kernel: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, None]]:
    """A kernel in the form that transformers calls."""

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


def _registered_name(kernel: str) -> str:
    return f"prefopt_{kernel}"


for _kernel, _compute in KERNELS.items():
    AttentionInterface.register(_registered_name(_kernel), _attention(_compute))
    AttentionMaskInterface.register(_registered_name(_kernel), rule_for)


@contextmanager
def packed_attention(model: nn.Module, kernel: str) -> Iterator[None]:
    """Let `model` attend by a packed kernel inside the block, and later in checkpointed layers that run again.

    Args:
        kernel: a name in `KERNELS`.
    """
    configs = list({id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values())
    with checkpointed_context(model, lambda: _kernel_in_configs(configs, kernel)):
        yield


@contextmanager
def _kernel_in_configs(configs: list[Any], kernel: str) -> Iterator[None]:
    previous = [config._attn_implementation_internal for config in configs]
    for config in configs:
        config._attn_implementation_internal = _registered_name(kernel)
    try:
        yield
    finally:
        for config, name in zip(configs, previous, strict=True):
            config._attn_implementation_internal = name

"""Where the keys and values of a shared prompt are: kept once for all responses to it, with the attention over them.

A registered attention function finds the cache by the layer that calls it, so that any model which looks its attention
up by name can decode this way, as it does for packed rows. A row is one response; the cache knows positions, not what
the tokens are or how they are chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from ..models.attention import Options, Rule, Unsupported, rule_for, segments
from ..models.layout import Packing
from ..utils.tensors import upcast

FIRST = 32
"""Tokens of a response that there is room for at first; the room doubles when it is full."""


@dataclass
class LayerCache:
    """One attention layer's (keys, values): of prompts [B, heads, L, D], of responses [R, heads, room, D]."""

    prompts: tuple[Tensor, Tensor]
    responses: tuple[Tensor, Tensor]

    def append(self, length: int, new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Write each row's new keys and values [R, heads, D] at place `length` -> all of them up to there, inclusive.

        Returns:
            [R, heads, length + 1, D] each.
        """
        rows = len(new[0])
        if length == self.responses[0].shape[2]:
            self.responses = tuple(torch.cat([x[:rows], torch.empty_like(x[:rows])], 2) for x in self.responses)  # type: ignore[assignment]
        for cached, x in zip(self.responses, new, strict=True):
            cached[:rows, :, length] = x
        return self.responses[0][:rows, :, : length + 1], self.responses[1][:rows, :, : length + 1]


@dataclass
class KVCache:
    """Keys and values of rows that began together, so that all have equally many tokens of their own.

    =============== ===========================================================
    prompt_lengths  tokens of each prompt
    prompt_of_row   which prompt a row goes on from
    response_length tokens of its own that a row has in `layers`
    layers          keys and values, by the attention module that they belong to
    =============== ===========================================================
    """

    prompt_lengths: list[int]
    prompt_of_row: list[int]
    device: torch.device
    response_length: int = 0
    layers: dict[nn.Module, LayerCache] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._index()

    def _index(self) -> None:
        """Tensors of the lists: [R] each, with the number of each row among its prompt's rows."""
        rows_of_prompt: Counter[int] = Counter()
        number_in_prompt = []
        for prompt in self.prompt_of_row:
            number_in_prompt.append(rows_of_prompt[prompt])
            rows_of_prompt[prompt] += 1
        lengths = [self.prompt_lengths[prompt] for prompt in self.prompt_of_row]
        self.most_rows = max(rows_of_prompt.values(), default=0)
        self.number_in_prompt = torch.tensor(number_in_prompt, device=self.device, dtype=torch.long)
        self.prompt_index = torch.tensor(self.prompt_of_row, device=self.device, dtype=torch.long)
        self.prompt_end = torch.tensor(lengths, device=self.device)

    @property
    def position(self) -> Tensor:
        """[R]: where the next token of each row stands."""
        return self.prompt_end + self.response_length

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all rows but these, and prompts without rows. Returns which row now stands where.

        The last rows move into the gaps: far less is copied than if all moved up.
        """
        layers = self.layers.values()
        order = _move([x for layer in layers for x in layer.responses], rows, self.response_length)
        self.prompt_of_row = [self.prompt_of_row[row] for row in order]
        prompts = _move([x for layer in layers for x in layer.prompts], sorted(set(self.prompt_of_row)), None)
        new_number = {prompt: number for number, prompt in enumerate(prompts)}
        self.prompt_lengths = [self.prompt_lengths[prompt] for prompt in prompts]
        self.prompt_of_row = [new_number[prompt] for prompt in self.prompt_of_row]
        self._index()
        return order

    def attend(
        self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, rule: Rule, options: Options, number: int
    ) -> Tensor:
        """The attention of one new token of every row, to its prompt and to its response so far.

        Args:
            q: [R, heads, D].
            k, v: [R, key heads, D], which join the cache.
            number: which of the caches of the step this is; the mask is kept under it.

        Returns:
            [R, heads, D].
        """
        layer = self.layers[module]
        response_k, response_v = layer.append(self.response_length, (k, v))
        prompt_k, prompt_v = (x[: len(self.prompt_lengths), :, : max(self.prompt_lengths)] for x in layer.prompts)
        q = (q * options.scale).unflatten(1, (k.shape[1], -1))  # query heads that share a key head lie together
        scores = torch.cat([self._by_row(self._by_prompt(q) @ prompt_k.mT), q @ response_k.mT], -1)
        if options.softcap is not None:
            scores = torch.tanh(scores / options.softcap) * options.softcap
        weights = self._softmax(scores, rule, number)
        to_prompt, to_response = weights.split([prompt_k.shape[2], self.response_length + 1], -1)
        return (self._by_row(self._by_prompt(to_prompt) @ prompt_v) + to_response @ response_v).flatten(1, 2)

    def _by_prompt(self, x: Tensor) -> Tensor:
        """A prompt's rows side by side, with gaps where it has fewer than others.

        [R, heads, S, N] -> [B, heads, most_rows * S, N].
        """
        r, heads, s, n = x.shape
        spread = x.new_zeros(len(self.prompt_lengths), heads, self.most_rows, s, n)
        spread[self.prompt_index, :, self.number_in_prompt] = x
        return spread.flatten(2, 3)

    def _by_row(self, x: Tensor) -> Tensor:
        """`_by_prompt` undone: [B, heads, most_rows * S, N] -> [R, heads, S, N]."""
        return x.unflatten(2, (self.most_rows, -1))[self.prompt_index, :, self.number_in_prompt]

    def _softmax(self, scores: Tensor, rule: Rule, number: int) -> Tensor:
        """Attention weights over prompt and own tokens. The mask is kept on the rule, which lives for one step."""
        if (number, self.response_length) not in rule.masks:
            in_prompt = torch.arange(max(self.prompt_lengths), device=self.device).expand(len(self.prompt_of_row), -1)
            in_response = self.prompt_end[:, None] + torch.arange(self.response_length + 1, device=self.device)
            allowed = rule.allows(self.position[:, None], torch.cat([in_prompt, in_response], 1))
            allowed[:, : in_prompt.shape[1]] &= in_prompt < self.prompt_end[:, None]
            mask = upcast(scores).new_zeros(allowed.shape).masked_fill(~allowed, -torch.inf)
            rule.masks[number, self.response_length] = mask
        return (scores + rule.masks[number, self.response_length][:, None, None]).softmax(-1).to(scores.dtype)


def _move(tensors: list[Tensor], kept: Sequence[int], upto: int | None) -> list[int]:
    """Move the entries `kept` of dimension 0 to the front, in place. Returns which entry now stands where."""
    order = list(range(len(kept)))
    gaps = sorted(set(order) - set(kept))
    movers = [entry for entry in kept if entry >= len(kept)]
    for gap, entry in zip(gaps, movers, strict=True):
        order[gap] = entry
    for x in tensors if gaps else []:
        x[gaps, :, :upto] = x[movers, :, :upto]
    return order


@dataclass
class Prefill:
    """Computing prompts number `first` and following of a cache, in one packed row."""

    cache: KVCache
    first: int
    packing: Packing

    def attend(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, rule: Rule, options: Options) -> Tensor:
        """The prompts' own attention; their keys and values go into the cache.

        q: [1, heads, T, D]; k, v: [1, key heads, T, D] -> [1, T, heads, D].
        """
        if module not in self.cache.layers:
            self.cache.layers[module] = self._new_layer(k, v)
        sizes = [prompt for prompt, _ in self.packing.segments]
        for cached, x in zip(self.cache.layers[module].prompts, (k, v), strict=True):
            for number, of_prompt in enumerate(x[0].split(sizes, 1), self.first):
                cached[number, :, : of_prompt.shape[1]] = of_prompt
        return segments(q, k, v, rule, self.packing, options)

    def _new_layer(self, k: Tensor, v: Tensor) -> LayerCache:
        prompts, longest = len(self.cache.prompt_lengths), max(self.cache.prompt_lengths)
        rows = len(self.cache.prompt_of_row)

        def room(x: Tensor) -> tuple[Tensor, Tensor]:
            # Zeros, since padding is multiplied too, if only by a weight of zero.
            zeros = x.new_zeros(prompts, x.shape[1], longest, x.shape[3])
            return zeros, x.new_empty(rows, x.shape[1], FIRST, x.shape[3])

        (prompt_k, response_k), (prompt_v, response_v) = room(k), room(v)
        return LayerCache((prompt_k, prompt_v), (response_k, response_v))


@dataclass
class DecodeStep:
    """Computing one more token of the rows of several caches, one cache after the other in one row."""

    caches: list[KVCache]

    def attend(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, rule: Rule, options: Options) -> Tensor:
        """q: [1, heads, T, D]; k, v: [1, key heads, T, D] -> [1, T, heads, D]."""
        sizes = [len(cache.prompt_of_row) for cache in self.caches]
        by_cache = zip(self.caches, *(x[0].transpose(0, 1).split(sizes) for x in (q, k, v)), strict=True)
        attended = [cache.attend(module, *qkv, rule, options, number) for number, (cache, *qkv) in enumerate(by_cache)]
        return torch.cat(attended)[None]


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    decoding: Prefill | DecodeStep | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    if not isinstance(attention_mask, Rule):
        raise Unsupported(f"{type(module).__name__} makes its own attention mask")
    if decoding is None:
        raise Unsupported(f"{type(module).__name__} does not get the arguments that its model was called with")
    options = Options(query.shape[-1] ** -0.5 if scaling is None else scaling, dropout, softcap)
    return decoding.attend(module, query, key, value, attention_mask, options), None


KERNEL = "decoding"
AttentionInterface.register(f"prefopt_{KERNEL}", _attention)
AttentionMaskInterface.register(f"prefopt_{KERNEL}", rule_for)

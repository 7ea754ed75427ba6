"""Rows that go on from shared prompts: their keys and values, and the attention of one more token of each.

The keys and values of a prompt are held once for all of its rows. A registered attention function finds them by the
layer that calls it, so that any model which looks its attention up by name can decode this way, as it does for packed
rows. Knows positions, not what the tokens are or how they are chosen.
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
class Layer:
    """One attention layer's keys and values: of prompts [B, heads, L, D], of rows [R, heads, room, D]."""

    prompt: tuple[Tensor, Tensor]
    own: tuple[Tensor, Tensor]

    def write(self, age: int, new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Row's keys and values [R, heads, D] at place `age` -> all up to there, [R, heads, age + 1, D]."""
        rows = len(new[0])
        if age == self.own[0].shape[2]:
            self.own = tuple(torch.cat([x[:rows], torch.empty_like(x[:rows])], 2) for x in self.own)  # type: ignore[assignment]
        for held, x in zip(self.own, new, strict=True):
            held[:rows, :, age] = x
        return self.own[0][:rows, :, : age + 1], self.own[1][:rows, :, : age + 1]


@dataclass
class Held:
    """Rows that began together, so that all have as many tokens of their own.

    ======= ===========================================================
    lengths tokens of each prompt
    owner   which prompt a row goes on from
    age     tokens of its own that a row has in `layers`
    layers  keys and values, by the attention module that they belong to
    ======= ===========================================================
    """

    lengths: list[int]
    owner: list[int]
    device: torch.device
    age: int = 0
    layers: dict[nn.Module, Layer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._place()

    def _place(self) -> None:
        """Tensors of the lists, and the number of each row among its prompt's rows."""
        count: Counter[int] = Counter()
        among = []
        for prompt in self.owner:
            among.append(count[prompt])
            count[prompt] += 1
        self.most = max(count.values(), default=0)
        self.among = torch.tensor(among, device=self.device, dtype=torch.long)
        self.prompt = torch.tensor(self.owner, device=self.device, dtype=torch.long)
        self.start = torch.tensor([self.lengths[prompt] for prompt in self.owner], device=self.device)

    @property
    def position(self) -> Tensor:
        """[R]: where the next token of each row stands."""
        return self.start + self.age

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all rows but these, and prompts without rows. Returns which row now stands where.

        The last rows move into the gaps: far less is copied than if all moved up.
        """
        order = _move([pair for layer in self.layers.values() for pair in layer.own], rows, self.age)
        self.owner = [self.owner[row] for row in order]
        prompts = _move([x for layer in self.layers.values() for x in layer.prompt], sorted(set(self.owner)), None)
        number = {prompt: place for place, prompt in enumerate(prompts)}
        self.lengths = [self.lengths[prompt] for prompt in prompts]
        self.owner = [number[prompt] for prompt in self.owner]
        self._place()
        return order

    def attend(
        self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, rule: Rule, options: Options, number: int
    ) -> Tensor:
        """One token of every row. q: [R, heads, D]; k, v: [R, key heads, D] -> [R, heads, D]."""
        layer = self.layers[module]
        own_k, own_v = layer.write(self.age, (k, v))
        prompt_k, prompt_v = (x[: len(self.lengths), :, : max(self.lengths)] for x in layer.prompt)
        q = (q * options.scale).unflatten(1, (k.shape[1], -1))  # query heads that share a key head lie together
        scores = torch.cat([self._gather(self._spread(q) @ prompt_k.mT), q @ own_k.mT], -1)
        if options.softcap is not None:
            scores = torch.tanh(scores / options.softcap) * options.softcap
        weights = self._softmax(scores, rule, number)
        of_prompt, of_own = weights.split([prompt_k.shape[2], self.age + 1], -1)
        return (self._gather(self._spread(of_prompt) @ prompt_v) + of_own @ own_v).flatten(1, 2)

    def _spread(self, x: Tensor) -> Tensor:
        """Rows of a prompt side by side, with gaps where it has fewer: [R, heads, S, N] -> [B, heads, most * S, N]."""
        r, heads, s, n = x.shape
        spread = x.new_zeros(len(self.lengths), heads, self.most, s, n)
        spread[self.prompt, :, self.among] = x
        return spread.flatten(2, 3)

    def _gather(self, x: Tensor) -> Tensor:
        """`_spread` undone."""
        return x.unflatten(2, (self.most, -1))[self.prompt, :, self.among]

    def _softmax(self, scores: Tensor, rule: Rule, number: int) -> Tensor:
        """Attention weights over prompt and own tokens. The mask is kept on the rule, which lives for one step."""
        if (number, self.age) not in rule.masks:
            places = torch.arange(max(self.lengths), device=self.device).expand(len(self.owner), -1)
            own = self.start[:, None] + torch.arange(self.age + 1, device=self.device)
            seen = rule.allows(self.position[:, None], torch.cat([places, own], 1))
            seen[:, : places.shape[1]] &= places < self.start[:, None]
            rule.masks[number, self.age] = upcast(scores).new_zeros(seen.shape).masked_fill(~seen, -torch.inf)
        return (scores + rule.masks[number, self.age][:, None, None]).softmax(-1).to(scores.dtype)


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
    """Prompts number `first` and following of a `Held`, in one packed row."""

    held: Held
    first: int
    packing: Packing

    def attend(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, rule: Rule, options: Options) -> Tensor:
        """q: [1, heads, T, D]; k, v: [1, key heads, T, D] -> [1, T, heads, D], and the keys and values are kept."""
        if module not in self.held.layers:
            self.held.layers[module] = self._layer(k, v)
        sizes = [prompt for prompt, _ in self.packing.segments]
        for held, x in zip(self.held.layers[module].prompt, (k, v), strict=True):
            for number, part in enumerate(x[0].split(sizes, 1), self.first):
                held[number, :, : part.shape[1]] = part
        return segments(q, k, v, rule, self.packing, options)

    def _layer(self, k: Tensor, v: Tensor) -> Layer:
        prompts, longest, rows = len(self.held.lengths), max(self.held.lengths), len(self.held.owner)

        def room(x: Tensor) -> tuple[Tensor, Tensor]:
            # Zeros, since padding is multiplied too, if only by a weight of zero.
            zeros = x.new_zeros(prompts, x.shape[1], longest, x.shape[3])
            return zeros, x.new_empty(rows, x.shape[1], FIRST, x.shape[3])

        (prompt_k, own_k), (prompt_v, own_v) = room(k), room(v)
        return Layer((prompt_k, prompt_v), (own_k, own_v))


@dataclass
class Step:
    """One more token for the rows of several `Held`, one after the other in one row."""

    held: list[Held]

    def attend(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, rule: Rule, options: Options) -> Tensor:
        """q: [1, heads, T, D]; k, v: [1, key heads, T, D] -> [1, T, heads, D]."""
        sizes = [len(held.owner) for held in self.held]
        parts = zip(self.held, *(x[0].transpose(0, 1).split(sizes) for x in (q, k, v)), strict=True)
        found = [held.attend(module, *qkv, rule, options, number) for number, (held, *qkv) in enumerate(parts)]
        return torch.cat(found)[None]


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    rollout: Prefill | Step | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    if not isinstance(attention_mask, Rule):
        raise Unsupported(f"{type(module).__name__} makes its own attention mask")
    if rollout is None:
        raise Unsupported(f"{type(module).__name__} does not get the arguments that its model was called with")
    options = Options(query.shape[-1] ** -0.5 if scaling is None else scaling, dropout, softcap)
    return rollout.attend(module, query, key, value, attention_mask, options), None


KERNEL = "rollout"
AttentionInterface.register(f"prefopt_{KERNEL}", _attention)
AttentionMaskInterface.register(f"prefopt_{KERNEL}", rule_for)

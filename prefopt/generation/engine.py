"""The fast loop: one token at a time for all rows that are going on, each prompt computed once for all of its rows.

The policy's own modules compute; only where its attention looks for keys and values is ours (`held.py`). Rows that end
are dropped, and when half of the batch has ended other prompts take the place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ..models.attention import packed_attention
from ..models.flops import FlopsModel, count_generation, flops_model_of
from ..models.heads import language_heads
from ..models.layout import Packing
from ..utils.flop_counter import is_counting
from .kv_cache import KERNEL, Held, Prefill, Step
from .stopping import Ends, Row
from .token_sampling import Distribution, uniform_stream

PREFILL = 4096
"""Tokens of prompts that are computed at a time."""
REFILL = 0.5
"""Share of the batch that has to be free before other prompts come in: each time they do costs one more attention."""


def decode(
    model: Any,
    rows: Iterable[Row],
    distribution: Distribution,
    ends: Ends,
    batch_size: int,
    done: Callable[[list[Row]], None],
    *,
    prefill: int = PREFILL,
) -> None:
    """Fill in the rows, at most `batch_size` at a time, and hand each over when it ends.

    Rows of one prompt have to follow one another. The model is expected in evaluation mode, under no_grad. At most
    `prefill` tokens of prompts are computed at a time, but for a prompt that is longer.
    """
    chunks = list(chunked(rows, batch_size))
    waiting = deque(chunks)
    waves: list[Wave] = []
    with packed_attention(model, KERNEL):
        engine = Engine(model, prefill)
        while waiting or waves:
            free = batch_size - sum(len(wave.rows) for wave in waves)
            if waiting and free >= max(len(waiting[0]), REFILL * batch_size):
                wave, logits = _begin(engine, list(_fitting(waiting, free)), distribution, ends)
                waves.append(wave)
                done(wave.take(logits, distribution, ends))
            else:
                parts = engine.step([wave.held for wave in waves], [row.ids[-1] for w in waves for row in w.rows])
                for wave, logits in zip(waves, parts, strict=True):
                    done(wave.take(logits, distribution, ends))
            waves = [wave for wave in waves if wave.rows]
    if is_counting():
        count(flops_model_of(model), chunks)


def chunked(rows: Iterable[Row], batch_size: int) -> Iterator[list[Row]]:
    """The rows of each prompt, in parts if they are more than a batch."""
    for _, group in groupby(rows, lambda row: row.prompt):
        whole = list(group)
        yield from (whole[start : start + batch_size] for start in range(0, len(whole), batch_size))


def count(work: FlopsModel, chunks: Iterable[Sequence[Row]]) -> None:
    """Tell who counts of responses that are done: the prompt of a chunk was fed once, and no response's last token."""
    spans: list[tuple[int, int]] = []
    drawn = 0
    for rows in chunks:
        prompt = len(rows[0].prompt_ids)
        spans += [(1, prompt), *((prompt + 1, prompt + len(row.ids) - 1) for row in rows)]
        drawn += 1 + sum(len(row.ids) - 1 for row in rows)
    count_generation(work, spans, drawn)


def _fitting(waiting: deque[list[Row]], free: int) -> Iterator[list[Row]]:
    while waiting and len(waiting[0]) <= free:
        free -= len(waiting[0])
        yield waiting.popleft()


class Engine:
    """Logits by the model's backbone and its own head, with keys and values in `Held`."""

    def __init__(self, model: Any, limit: int = PREFILL):
        self.model, self.head, self.limit = model, language_heads(model)["own"], limit

    def prefill(self, prompts: Sequence[list[int]], rows: Sequence[int]) -> tuple[Held, Tensor]:
        """Compute each prompt once. rows: how many go on from each. Returns their first logits [R, V] too."""
        owner = [number for number, count in enumerate(rows) for _ in range(count)]
        held = Held([len(ids) for ids in prompts], owner, self.model.device)
        found, first = [], 0
        while first < len(prompts):
            size = _how_many(held.lengths[first:], self.limit)
            found.append(self._prefill(held, prompts[first : first + size], first))
            first += size
        return held, torch.cat(found)[held.prompt]

    def _prefill(self, held: Held, prompts: Sequence[list[int]], first: int) -> Tensor:
        device = self.model.device
        lengths = torch.tensor([len(ids) for ids in prompts], device=device)
        position = torch.cat([torch.arange(len(ids), device=device) for ids in prompts])
        group = torch.arange(len(prompts), device=device).repeat_interleave(lengths)
        packing = Packing(group, torch.full_like(group, -1), position, lengths[:, None])
        ids = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        hidden = self._run(ids, position, Prefill(held, first, packing))
        return self.head(hidden[lengths.cumsum(0) - 1])

    def step(self, held: Sequence[Held], tokens: list[int]) -> tuple[Tensor, ...]:
        """Feed one token of every row. Returns the logits that follow, [R, V] for each of `held`."""
        position = torch.cat([part.position for part in held])
        hidden = self._run(torch.tensor(tokens, device=position.device), position, Step(list(held)))
        for part in held:
            part.age += 1
        return self.head(hidden).split([len(part.owner) for part in held])

    def _run(self, ids: Tensor, position: Tensor, rollout: Prefill | Step) -> Tensor:
        """ids, position: [T] -> hidden states [T, H]."""
        inputs = {"input_ids": ids[None], "position_ids": position[None], "attention_mask": torch.ones_like(ids)[None]}
        return self.model.base_model(**inputs, use_cache=False, rollout=rollout)[0][0]


def _how_many(lengths: Sequence[int], limit: int) -> int:
    """How many of these prompts are computed at a time, at least one: as many as have `limit` tokens together."""
    total = 0
    for number, length in enumerate(lengths):
        total += length
        if number and total > limit:
            return number
    return len(lengths)


def _begin(engine: Engine, chunks: Sequence[list[Row]], distribution: Distribution, ends: Ends) -> tuple[Wave, Tensor]:
    rows = [row for chunk in chunks for row in chunk]
    held, logits = engine.prefill([chunk[0].prompt_ids for chunk in chunks], [len(chunk) for chunk in chunks])
    numbers = torch.stack([uniform_stream(ends.limit, *row.stream) for row in rows])
    return Wave(
        rows, held, numbers.to(logits.device), seen_tokens(rows, logits) if distribution.remembers else None
    ), logits


def seen_tokens(rows: Sequence[Row], logits: Tensor) -> Tensor:
    """[R, V]: which tokens each row's prompt has."""
    seen = torch.zeros(logits.shape, dtype=torch.bool)
    for line, row in zip(seen, rows, strict=True):
        line[row.prompt_ids] = True
    return seen.to(logits.device)


@dataclass
class Wave:
    """Rows that began together. uniforms: [R, limit]; seen: [R, V] if the distribution depends on it."""

    rows: list[Row]
    held: Held
    uniforms: Tensor
    seen: Tensor | None

    def take(self, logits: Tensor, distribution: Distribution, ends: Ends) -> list[Row]:
        """Draw the next token of every row; the rows that it ends leave."""
        drawn, logps = distribution.draw(logits, self.uniforms[:, self.held.age], self.seen)
        if self.seen is not None:
            self.seen.scatter_(1, drawn[:, None], True)
        news = zip(self.rows, drawn.tolist(), logps.tolist(), strict=True)
        over = [row.add(token, logp, ends) for row, token, logp in news]
        left = [row for row, ended in zip(self.rows, over, strict=True) if ended]
        if left:
            self._keep([number for number, ended in enumerate(over) if not ended])
        return left

    def _keep(self, numbers: list[int]) -> None:
        order = self.held.keep(numbers)
        self.rows = [self.rows[number] for number in order]
        self.uniforms = self.uniforms[order]
        self.seen = None if self.seen is None else self.seen[order]

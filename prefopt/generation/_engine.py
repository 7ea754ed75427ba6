"""The fast loop: one token at a time for all sequences that go on, each prompt computed once for all its responses.

The policy's own modules compute; only where its attention looks for keys and values is ours (`_kv_cache.py`). Sequences
that end are dropped, and when half of the batch has ended other prompts take the place.
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
from ._kv_cache import KERNEL, DecodeStep, KVCache, Prefill
from ._token_sampling import Distribution, uniform_stream
from .stopping import SequenceState, StoppingRules

PREFILL = 4096
"""Tokens of prompts that are computed at a time."""
Run = Callable[[Callable[[], Any]], Any]
REFILL = 0.5
"""Share of the batch that has to be free before other prompts come in: each time they do costs one more attention."""


def directly(compute: Callable[[], Any]) -> Any:
    """Run a computation as it is."""
    return compute()


def decode(
    model: Any,
    sequences: Iterable[SequenceState],
    distribution: Distribution,
    rules: StoppingRules,
    batch_size: int,
    on_end: Callable[[list[SequenceState]], None],
    *,
    prefill: int = PREFILL,
    run: Run = directly,
) -> None:
    """Generate the sequences to their ends, at most `batch_size` at a time.

    Args:
        model: the policy without its wrappers, in evaluation mode, under no_grad.
        sequences: those of one prompt have to follow one another.
        on_end: is handed each sequence when it has ended.
        prefill: the most tokens of prompts that are computed at a time, but for a prompt that is longer.
        run: runs a computation under the policy's wrappers, where its weights are not at hand without them.
    """
    groups = list(groups_by_prompt(sequences, batch_size))
    waiting = deque(groups)
    batches: list[RunningBatch] = []
    with packed_attention(model, KERNEL):
        engine = Engine(model, prefill, run)
        while waiting or batches:
            free = batch_size - sum(len(batch.sequences) for batch in batches)
            if waiting and free >= max(len(waiting[0]), REFILL * batch_size):
                batch, logits = _start(engine, list(_fitting(waiting, free)), distribution, rules)
                batches.append(batch)
                on_end(batch.add_tokens(logits, distribution, rules))
            else:
                newest = [sequence.ids[-1] for batch in batches for sequence in batch.sequences]
                logits_of_batches = engine.step([batch.cache for batch in batches], newest)
                for batch, logits in zip(batches, logits_of_batches, strict=True):
                    on_end(batch.add_tokens(logits, distribution, rules))
            batches = [batch for batch in batches if batch.sequences]
    if is_counting():
        count_flops(flops_model_of(model), groups)


def groups_by_prompt(sequences: Iterable[SequenceState], batch_size: int) -> Iterator[list[SequenceState]]:
    """The sequences of each prompt, in parts if they are more than a batch."""
    for _, of_prompt in groupby(sequences, lambda sequence: sequence.prompt_number):
        group = list(of_prompt)
        yield from (group[start : start + batch_size] for start in range(0, len(group), batch_size))


def count_flops(work: FlopsModel, groups: Iterable[Sequence[SequenceState]]) -> None:
    """Tell who counts what ended sequences cost: a group's prompt was fed once, and no response's last token."""
    spans: list[tuple[int, int]] = []
    logit_rows = 0
    for group in groups:
        prompt = len(group[0].prompt_ids)
        spans += [(1, prompt), *((prompt + 1, prompt + len(sequence.ids) - 1) for sequence in group)]
        logit_rows += 1 + sum(len(sequence.ids) - 1 for sequence in group)
    count_generation(work, spans, logit_rows)


def _fitting(waiting: deque[list[SequenceState]], free: int) -> Iterator[list[SequenceState]]:
    """Takes groups off the queue as long as there is room for the next."""
    while waiting and len(waiting[0]) <= free:
        free -= len(waiting[0])
        yield waiting.popleft()


class Engine:
    """Computes next-token logits by the model's backbone and its own head, with keys and values in a `KVCache`."""

    def __init__(self, model: Any, prompt_tokens: int = PREFILL, run: Run = directly):
        self.model, self.head, self.prompt_tokens = model, language_heads(model)["own"], prompt_tokens
        self.run = run

    def prefill(self, prompts: Sequence[list[int]], responses: Sequence[int]) -> tuple[KVCache, Tensor]:
        """Compute each prompt once.

        Args:
            prompts: ids of each.
            responses: how many sequences go on from each.

        Returns:
            The cache of all R sequences, and the logits of their first tokens: [R, V].
        """
        prompt_of_row = [number for number, count in enumerate(responses) for _ in range(count)]
        cache = KVCache([len(ids) for ids in prompts], prompt_of_row, self.model.device)
        logits, first = [], 0
        while first < len(prompts):
            count = _prompts_at_once(cache.prompt_lengths[first:], self.prompt_tokens)
            logits.append(self._prefill(cache, prompts[first : first + count], first))
            first += count
        return cache, torch.cat(logits)[cache.prompt_index]

    def _prefill(self, cache: KVCache, prompts: Sequence[list[int]], first: int) -> Tensor:
        """Prompts number `first` and following, in one packed row -> the logits after each: [prompts, V]."""
        device = self.model.device
        lengths = torch.tensor([len(ids) for ids in prompts], device=device)
        position = torch.cat([torch.arange(len(ids), device=device) for ids in prompts])
        group = torch.arange(len(prompts), device=device).repeat_interleave(lengths)
        packing = Packing(group, torch.full_like(group, -1), position, lengths[:, None])
        ids = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        return self._logits(ids, position, Prefill(cache, first, packing), lengths.cumsum(0) - 1)

    def step(self, caches: Sequence[KVCache], tokens: list[int]) -> tuple[Tensor, ...]:
        """Feed one token of every row. Returns the logits that follow: [R, V] for each of the caches."""
        position = torch.cat([cache.position for cache in caches])
        logits = self._logits(torch.tensor(tokens, device=position.device), position, DecodeStep(list(caches)))
        for cache in caches:
            cache.response_length += 1
        return logits.split([len(cache.prompt_of_row) for cache in caches])

    def _logits(
        self, ids: Tensor, position: Tensor, decoding: Prefill | DecodeStep, read: Tensor | slice = slice(None)
    ) -> Tensor:
        """ids, position: [T] -> the logits after the tokens that are read, by default all: [T, V]."""
        inputs = {"input_ids": ids[None], "position_ids": position[None], "attention_mask": torch.ones_like(ids)[None]}

        def compute() -> dict[str, Tensor]:
            hidden = self.model.base_model(**inputs, use_cache=False, decoding=decoding)[0][0]
            return {"logits": self.head(hidden[read])}

        return self.run(compute)["logits"]


def _prompts_at_once(lengths: Sequence[int], limit: int) -> int:
    """How many of these prompts are computed at a time, at least one: as many as have `limit` tokens together."""
    total = 0
    for number, length in enumerate(lengths):
        total += length
        if number and total > limit:
            return number
    return len(lengths)


def _start(
    engine: Engine, groups: Sequence[list[SequenceState]], distribution: Distribution, rules: StoppingRules
) -> tuple[RunningBatch, Tensor]:
    """A batch of new sequences, and the logits of their first tokens: [R, V]."""
    sequences = [sequence for group in groups for sequence in group]
    cache, logits = engine.prefill([group[0].prompt_ids for group in groups], [len(group) for group in groups])
    uniforms = torch.stack([uniform_stream(rules.max_new_tokens, *sequence.stream) for sequence in sequences])
    seen = seen_tokens(sequences, logits) if distribution.depends_on_seen else None
    return RunningBatch(sequences, cache, uniforms.to(logits.device), seen), logits


def seen_tokens(sequences: Sequence[SequenceState], logits: Tensor) -> Tensor:
    """[R, V]: which tokens each sequence's prompt has."""
    seen = torch.zeros(logits.shape, dtype=torch.bool)
    for row, sequence in zip(seen, sequences, strict=True):
        row[sequence.prompt_ids] = True
    return seen.to(logits.device)


@dataclass
class RunningBatch:
    """Sequences that began together, and so have equally many tokens.

    ========= =====================================================================
    sequences those that go on: R
    cache     their keys and values
    uniforms  [R, max_new_tokens]: their random numbers
    seen      [R, V]: which tokens each has, if the distribution depends on that
    ========= =====================================================================
    """

    sequences: list[SequenceState]
    cache: KVCache
    uniforms: Tensor
    seen: Tensor | None

    def add_tokens(self, logits: Tensor, distribution: Distribution, rules: StoppingRules) -> list[SequenceState]:
        """Sample the next token of every sequence. Returns those that it ends, which leave the batch."""
        tokens, logps = distribution.sample(logits, self.uniforms[:, self.cache.response_length], self.seen)
        if self.seen is not None:
            self.seen.scatter_(1, tokens[:, None], True)
        new_tokens = zip(self.sequences, tokens.tolist(), logps.tolist(), strict=True)
        over = [sequence.append(token, logp, rules) for sequence, token, logp in new_tokens]
        ended = [sequence for sequence, is_over in zip(self.sequences, over, strict=True) if is_over]
        if ended:
            self._keep([row for row, is_over in enumerate(over) if not is_over])
        return ended

    def _keep(self, rows: list[int]) -> None:
        order = self.cache.keep(rows)
        self.sequences = [self.sequences[row] for row in order]
        self.uniforms = self.uniforms[order]
        self.seen = None if self.seen is None else self.seen[order]

"""`beam_search`: likely responses that differ from one another, by diverse beam search.

A prompt's beams are divided into groups that take their next tokens one after the other, each group with a penalty on
the tokens that those before it have just taken. One group is plain beam search.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedTokenizerBase

from ..data.encode import stop_token_ids
from ..data.records import Messages
from ..data.template import is_bare
from ..models.flops import count_generation, flops_model_of
from ..models.modes import evaluating
from ..models.rope_lengths import forget_lengths, parts_by_frequencies
from ..models.wrappers import own_forward, unwrap
from ..utils.flop_counter import is_counting
from ._beam_groups import BeamSettings, NextTokens, PromptSearch
from .prompts import check_numbers, check_policy, encode_prompts, padded, progress_bar
from .stopping import Sample, SequenceState, StoppingRules

LOOKED_UP = 4
"""Times k: how many next tokens of a beam are looked up first. What the search finds does not depend on it."""


def beam_search(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    *,
    k: int = 4,
    groups: int = 4,
    diversity_penalty: float = 1.0,
    temperature: float = 1.0,
    max_new_tokens: int = 128,
    stop_strings: Sequence[str] = (),
    length_penalty: float = 1.0,
    batch_size: int = 128,
    looked_up: float = LOOKED_UP,
    progress: bool = False,
) -> list[list[Sample]]:
    """`k` responses to each prompt, in the order of the prompts, the best first: diverse beam search with the Hamming
    diversity of Vijayakumar et al. 2016 (arXiv:1610.02424, algorithm 1), plain beam search if `groups` is 1.

    A group's candidates are scored by their log-prob less `diversity_penalty` for every beam of an earlier group that
    takes the same token at the same step, those that end with it too. As in algorithm 1, in its authors' code and in
    the `num_beam_groups` that transformers had, the score of a beam keeps the penalties of all its steps, and it is
    this score, divided by length ** length_penalty, by which a group keeps its k / groups best responses. The k are
    then put in order without the penalties, by log-prob / length ** length_penalty: how late a group came says nothing
    about its responses. A group is done when it has its k / groups responses and its best beam, at the length it has,
    scores no more than the worst of them (`early_stopping=False` in transformers).

    There are no random numbers. Responses do not depend on the batch or on the order of the prompts, except that in
    less than float64 the last digits of a logit do, and can decide between candidates that are as good as equal.
    Of the policy's `generation_config` only the stop tokens count.

    Args:
        policy: a causal language model, with or without an adapter.
        prompts: lists of {role, content}; or what `encode_prompts` made of them, which is not encoded again.
        groups: a divisor of k; each group has k / groups beams, so that with groups=k each is greedy but for the
            penalty. RRHF (arXiv:2304.05302) uses k=4 and groups=4.
        diversity_penalty: lambda of the paper, 0 makes all groups alike.
        temperature: divides the logits before the log-softmax. The 0.8 in RRHF's code was without effect, since
            transformers applies a temperature only where it samples: 1 does what was done there.
        stop_strings: a response ends with the first of these, which its text leaves out.
        length_penalty: above 0 long responses are preferred, below 0 short ones.
        batch_size: responses at a time, those to one prompt always together.
        looked_up: times k, how many next tokens of a beam are looked up first; the responses do not depend on it.

    Returns:
        Lists of `k` (fewer only where the policy has no more responses at all). `logps` are the policy's own, at
        temperature 1 and without the penalty.

    Raises:
        ValueError: a setting outside its range, a policy with learnt virtual tokens, sharded or without a cache of keys
            and values, or a prompt that cannot be encoded or leaves no room for a response.
    """
    check_numbers(k, max_new_tokens, batch_size)
    check_policy(policy)
    strings = (stop_strings,) if isinstance(stop_strings, str) else tuple(stop_strings)
    stop_tokens = tuple(stop_token_ids(tokenizer, policy.generation_config))
    rules = StoppingRules(tokenizer, stop_tokens, max_new_tokens, strings)
    settings = BeamSettings(k, groups, diversity_penalty, temperature, length_penalty, rules)
    inner = unwrap(policy)
    _check_whole(inner)
    encoded = encode_prompts(prompts, tokenizer, policy, max_new_tokens)
    searches = [PromptSearch(list(ids), settings) for ids in encoded.ids]
    # The longest first: memory that does not suffice shows at once, and there is little padding.
    order = sorted(searches, key=lambda search: -len(search.prompt_ids))
    size = max(1, batch_size // k)
    with torch.no_grad(), evaluating(policy), progress_bar(k * len(searches), progress) as show:
        forget_lengths(inner)
        for part in parts_by_frequencies(inner, order, lambda search: len(search.prompt_ids)):
            for start in range(0, len(part), size):
                _search_batch(inner, part[start : start + size], settings, int(looked_up * k), show)
    return [
        [replace(beam.sequence, bare_prompt=is_bare(prompt)).to_sample(rules) for beam in search.best()]
        for prompt, search in zip(prompts, searches, strict=True)
    ]


def _search_batch(
    model: Any,
    searches: list[PromptSearch],
    settings: BeamSettings,
    looked_up: int,
    on_end: Callable[[list[SequenceState]], None],
) -> None:
    """Search for the responses to the prompts of a batch. looked_up: next tokens of a beam that are looked up first."""
    prompts = [SequenceState(0, 0, search.prompt_ids, ()) for search in searches]
    cached = CachedModel(model)
    logits = cached.begin(**padded(prompts, model.device))
    fed = [(1, len(search.prompt_ids)) for search in searches]
    for row, search in enumerate(searches):
        search.begin(row)
    while searches:
        next_tokens = NextTokens(logits, settings.temperature, looked_up)
        for search in searches:
            search.step(next_tokens)
        ended = [search for search in searches if not search.live]
        on_end([beam.sequence for search in ended for beam in search.best()])
        searches = [search for search in searches if search.live]
        beams = [beam for search in searches for beam in search.live]
        if beams:
            logits = cached.step([beam.row for beam in beams], [beam.sequence.ids[-1] for beam in beams])
        for row, beam in enumerate(beams):
            beam.row = row
        if is_counting():
            lengths = [len(beam.sequence.prompt_ids) + len(beam.sequence.ids) for beam in beams]
            fed += [(length, length) for length in lengths]
    if is_counting():
        count_generation(flops_model_of(model), fed, len(fed))


class CachedModel:
    """Computes logits by the model, with keys and values in the model's own cache, which any model can reorder.

    The fast loop's `KVCache` drops rows but does not fork them. A prompt is computed once here too, and then copied for
    each of its beams.
    """

    def __init__(self, model: Any):
        self.model = model
        self.parameters = inspect.signature(own_forward(model)).parameters
        self.cache: Any = None

    def begin(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Prompts, padded on the left: [R, P] each -> the logits that follow, [R, V]."""
        self.mask = attention_mask
        return self._logits(input_ids)

    def step(self, rows: list[int], tokens: list[int]) -> Tensor:
        """Go on from these rows, as often as each is named, by one token each -> [len(rows), V]."""
        if rows != list(range(len(self.mask))):
            index = torch.tensor(rows, device=self.mask.device)
            self.cache.reorder_cache(index)
            self.mask = self.mask[index]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(rows), 1)], 1)
        return self._logits(torch.tensor(tokens, device=self.mask.device)[:, None])

    def _logits(self, ids: Tensor) -> Tensor:
        """ids: [R, T], the last T of `mask` -> [R, V] after the last of them."""
        position = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        optional = {"position_ids": position, "logits_to_keep": 1}
        inputs = {name: value for name, value in optional.items() if name in self.parameters}
        outputs = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
            return_dict=True,
            **inputs,
        )
        self.cache = outputs.get("past_key_values")
        if self.cache is None:
            raise ValueError(
                f"{type(self.model).__name__} has no cache of keys and values to search with: use `sample`"
            )
        return outputs.logits[:, -1]


def _check_whole(model: Any) -> None:
    """Raise ValueError for a sharded model.

    Its ranks would have to take equally many steps, and each search takes its own number of them.
    """
    if any(isinstance(module, FSDPModule) for module in model.modules()):
        raise ValueError("the policy's weights are sharded, and beam search needs them whole: load it without FSDP")

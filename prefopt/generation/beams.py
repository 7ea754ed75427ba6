"""Diverse beam search, which finds likely responses that differ. Knows the policy and its cache, not their worth.

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
from ..models.wrappers import own_forward, unwrap
from ..utils.flop_counter import is_counting
from .beam_groups import Following, Rules, Search
from .prompts import check_numbers, check_policy, encoded, padded, progress_bar
from .stopping import Ends, Row, Sample

KNOWN = 4
"""Times k: so many next tokens nearly always suffice, and the fewer are looked at, the faster."""


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
    known: float = KNOWN,
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
        groups: a divisor of k; each group has k / groups beams, so that with groups=k each is greedy but for the
            penalty. RRHF (arXiv:2304.05302) uses k=4 and groups=4.
        diversity_penalty: lambda of the paper, 0 makes all groups alike.
        temperature: divides the logits before the log-softmax. The 0.8 in RRHF's code was without effect, since
            transformers applies a temperature only where it samples: 1 does what was done there.
        stop_strings: a response ends with the first of these, which its text leaves out.
        length_penalty: above 0 long responses are preferred, below 0 short ones.
        batch_size: responses at a time, those to one prompt always together.
        known: times k, how many next tokens of a beam are looked at first. What is found does not depend on it.

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
    ends = Ends(tokenizer, tuple(stop_token_ids(tokenizer, policy.generation_config)), max_new_tokens, strings)
    rules = Rules(k, groups, diversity_penalty, temperature, length_penalty, ends)
    inner = unwrap(policy)
    _check_whole(inner)
    searches = [Search(ids, rules) for ids in encoded(prompts, tokenizer, policy, max_new_tokens)]
    # The longest first: memory that does not suffice shows at once, and there is little padding.
    order = sorted(searches, key=lambda search: -len(search.prompt_ids))
    size = max(1, batch_size // k)
    with torch.no_grad(), evaluating(policy), progress_bar(k * len(searches), progress) as show:
        for start in range(0, len(order), size):
            _run(inner, order[start : start + size], rules, int(known * k), show)
    return [
        [replace(beam.row, bare=is_bare(prompt)).sample(ends) for beam in search.best()]
        for prompt, search in zip(prompts, searches, strict=True)
    ]


def _run(model: Any, searches: list[Search], rules: Rules, known: int, done: Callable[[list[Row]], None]) -> None:
    """Search for the responses to the prompts of a batch. known: next tokens of a beam that are looked at first."""
    rows = [Row(0, 0, search.prompt_ids, ()) for search in searches]
    cached = Cached(model)
    logits = cached.begin(**padded(rows, model.device))
    fed = [(1, len(search.prompt_ids)) for search in searches]
    for place, search in enumerate(searches):
        search.begin(place)
    while searches:
        following = Following(logits, rules.temperature, known)
        for search in searches:
            search.step(following)
        over = [search for search in searches if not search.live]
        done([beam.row for search in over for beam in search.best()])
        searches = [search for search in searches if search.live]
        beams = [beam for search in searches for beam in search.live]
        if beams:
            logits = cached.step([beam.place for beam in beams], [beam.row.ids[-1] for beam in beams])
        for place, beam in enumerate(beams):
            beam.place = place
        if is_counting():
            lengths = [len(beam.row.prompt_ids) + len(beam.row.ids) for beam in beams]
            fed += [(length, length) for length in lengths]
    if is_counting():
        count_generation(flops_model_of(model), fed, len(fed))


class Cached:
    """Logits by the model, with keys and values in its own cache, which any model can reorder.

    Not the fast loop's `Held`, which drops rows but does not fork them: a prompt is computed once here too, and then
    copied for each of its beams.
    """

    def __init__(self, model: Any):
        self.model = model
        self.known = inspect.signature(own_forward(model)).parameters
        self.cache: Any = None

    def begin(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Prompts, padded on the left: [R, P] each -> the logits that follow, [R, V]."""
        self.mask = attention_mask
        return self._logits(input_ids)

    def step(self, places: list[int], tokens: list[int]) -> Tensor:
        """Go on from the rows `places`, as often as each is named, by one token each -> [len(places), V]."""
        if places != list(range(len(self.mask))):
            index = torch.tensor(places, device=self.mask.device)
            self.cache.reorder_cache(index)
            self.mask = self.mask[index]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(places), 1)], 1)
        return self._logits(torch.tensor(tokens, device=self.mask.device)[:, None])

    def _logits(self, ids: Tensor) -> Tensor:
        """ids: [R, T], the last T of `mask` -> [R, V] after the last of them."""
        position = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        optional = {"position_ids": position, "logits_to_keep": 1}
        inputs = {name: value for name, value in optional.items() if name in self.known}
        found = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
            return_dict=True,
            **inputs,
        )
        self.cache = found.get("past_key_values")
        if self.cache is None:
            raise ValueError(
                f"{type(self.model).__name__} has no cache of keys and values to search with: use `sample`"
            )
        return found.logits[:, -1]


def _check_whole(model: Any) -> None:
    """Ranks that share a model have to take equally many steps, and each search has its own number of them."""
    if any(isinstance(module, FSDPModule) for module in model.modules()):
        raise ValueError("the policy's weights are sharded, and beam search needs them whole: load it without FSDP")

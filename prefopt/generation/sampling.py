"""`sample`: a policy and prompts in, responses out. The only place that generates.

Each response is sampled with its own stream of uniform numbers, derived from (seed, stream, key of the prompt, response
number): what is sampled does not depend on how prompts are batched or ordered, and two policies answer with common
random numbers. Models that the fast loop (`_engine.py`) cannot decode are sampled by transformers' `generate`, from the
same distribution by the same numbers. A policy that vLLM serves is asked for the same, with random numbers of vLLM's
own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from ..data.encode import stop_token_ids
from ..data.records import Messages
from ..data.template import is_bare
from ..models.flops import flops_model_of
from ..models.lockstep import in_step, is_gathered
from ..models.modes import evaluating
from ..models.rope_lengths import forget_lengths, parts_by_frequencies
from ..models.wrappers import run_under_wrapper, unwrap
from ..utils.distributed import world_size
from ..utils.flop_counter import is_counting
from ._compatibility import Way, is_supported, way_to_generate
from ._engine import count_flops, decode, directly, groups_by_prompt, seen_tokens
from ._token_sampling import Distribution, uniform_stream
from .prompts import check_numbers, check_policy, encode_prompts, padded, progress_bar
from .stopping import Sample as Sample
from .stopping import SequenceState, StoppingRules
from .vllm import VLLM, add_answers

OnEnd = Callable[[list[SequenceState]], None]
"""Is handed sequences when they have ended."""


def sample(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    *,
    k: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    max_new_tokens: int = 128,
    stop_strings: Sequence[str] = (),
    seed: int = 0,
    stream: tuple[int, ...] = (),
    keys: Sequence[int | str] | None = None,
    batch_size: int = 128,
    progress: bool = False,
) -> list[list[Sample]]:
    """`k` responses to each prompt, in the order of the prompts. Temperature 0 is greedy.

    Of the policy's `generation_config` only the stop tokens count: what is sampled is the policy's own distribution at
    these settings, without a penalty, a ban or a beam search that a checkpoint brings along.

    Args:
        policy: a causal language model, with or without an adapter, or a `VLLM`, which says what differs.
        prompts: lists of {role, content}; or what `encode_prompts` made of them, which is not encoded again.
        temperature, top_p, top_k, repetition_penalty: shape the distribution, in the way of transformers' processors.
        max_new_tokens: the longest response, in tokens; one that reaches it is truncated there.
        stop_strings: a response ends with the first of these, which its text leaves out.
        stream: what else makes the random numbers new, such as (round, iteration).
        keys: a name for each prompt, by which it keeps its random numbers in another list; by default its number.
        batch_size: responses at a time. More are faster on any machine, and hold more keys and values.

    Raises:
        ValueError: a setting outside its range, a policy with learnt virtual tokens, or a prompt that cannot be encoded
            or leaves no room for a response.
    """
    check_numbers(k, max_new_tokens, batch_size)
    distribution = Distribution(float(temperature), top_k, top_p, repetition_penalty)
    check_policy(policy)
    strings = (stop_strings,) if isinstance(stop_strings, str) else tuple(stop_strings)
    stop_tokens = tuple(stop_token_ids(tokenizer, policy.generation_config))
    rules = StoppingRules(tokenizer, stop_tokens, max_new_tokens, strings)
    streams = [(int(seed), *map(int, stream), name) for name in _names(keys, len(prompts))]
    prompt_ids = [list(ids) for ids in encode_prompts(prompts, tokenizer, policy, max_new_tokens).ids]
    bare_prompt = [is_bare(prompt) for prompt in prompts]
    groups = [
        [SequenceState(i, j, prompt_ids[i], (*streams[i], j), bare_prompt=bare_prompt[i]) for j in range(k)]
        for i in range(len(prompts))
    ]
    # The longest first: memory that does not suffice shows at once.
    order = sorted(groups, key=lambda group: -len(group[0].prompt_ids))
    with progress_bar(k * len(groups), progress) as show:
        _generate(policy, [sequence for group in order for sequence in group], distribution, rules, batch_size, show)
    return [[sequence.to_sample(rules) for sequence in group] for group in groups]


def _generate(
    policy: Any,
    sequences: list[SequenceState],
    distribution: Distribution,
    rules: StoppingRules,
    batch_size: int,
    on_end: OnEnd,
) -> None:
    """Generate by vLLM, if it serves the policy, or by the fast loop, if that supports the policy."""
    if isinstance(policy, VLLM):
        return generate_by_vllm(policy, sequences, distribution, rules, on_end)
    inner = unwrap(policy)
    run = partial(run_under_wrapper, policy, inner) if is_gathered(policy) else directly
    with torch.no_grad(), evaluating(policy), in_step(policy):
        forget_lengths(inner)
        for part in parts_by_frequencies(inner, sequences, lambda sequence: len(sequence.prompt_ids)):
            if is_supported(inner, run):
                decode(inner, part, distribution, rules, batch_size, on_end, run=run)
            else:
                generate_by_transformers(policy, part, distribution, rules, batch_size, on_end)


def generate_by_vllm(
    policy: VLLM, sequences: list[SequenceState], distribution: Distribution, rules: StoppingRules, on_end: OnEnd
) -> None:
    """Generate by vLLM, asking again for sequences that are not at their end when it stops."""
    groups = list(groups_by_prompt(sequences, max(1, len(sequences))))
    while sequences:
        add_answers(sequences, policy.answers(sequences, distribution, rules), rules)
        on_end([sequence for sequence in sequences if sequence.finish_reason])
        sequences = [sequence for sequence in sequences if not sequence.finish_reason]
    if is_counting():
        count_flops(policy.work, groups)


def generate_by_transformers(
    policy: Any,
    sequences: Sequence[SequenceState],
    distribution: Distribution,
    rules: StoppingRules,
    batch_size: int,
    on_end: OnEnd,
) -> None:
    """Generate as `decode` does, by transformers' `generate`, a batch at a time."""
    if is_gathered(policy) and world_size() > 1:
        raise ValueError(
            f"{type(unwrap(policy)).__name__} can only be decoded by transformers' generate, which processes that "
            "share its weights would call unequally often: launch this with examples/accelerate/ddp.yaml"
        )
    way = way_to_generate(policy, _generate_in_a_way)
    for batch in way.batches(list(sequences), batch_size):
        _generate_batch(policy, batch, distribution, rules, use_cache=way.caches(batch))
        on_end(batch)
    if is_counting():
        count_flops(flops_model_of(unwrap(policy)), [[sequence] for sequence in sequences])


def _generate_in_a_way(policy: Any, sequences: list[SequenceState], rules: StoppingRules, way: Way) -> None:
    for batch in way.batches(sequences, len(sequences)):
        _generate_batch(policy, batch, Distribution(), rules, use_cache=way.caches(batch))


def _generate_batch(
    policy: Any, batch: list[SequenceState], distribution: Distribution, rules: StoppingRules, *, use_cache: bool
) -> None:
    settings = {"eos_token_id": list(rules.stop_tokens), "pad_token_id": rules.stop_tokens[0], "use_cache": use_cache}
    config = GenerationConfig(do_sample=False, max_new_tokens=rules.max_new_tokens, **settings)
    with _generation_config(config, policy):
        policy.generate(
            **padded(batch, policy.device),
            generation_config=config,
            logits_processor=LogitsProcessorList([SamplingProcessor(batch, distribution, rules)]),
            stopping_criteria=StoppingCriteriaList([HasEnded(batch)]),
        )


class SamplingProcessor(LogitsProcessor):
    """Turns greedy decoding into sampling: only the token that was sampled survives. The sequences grow as it goes."""

    def __init__(self, sequences: Sequence[SequenceState], distribution: Distribution, rules: StoppingRules):
        self.sequences, self.distribution, self.rules = sequences, distribution, rules
        self.uniforms = torch.stack([uniform_stream(rules.max_new_tokens, *state.stream) for state in sequences])
        self.seen: Tensor | None = None
        self.length = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.distribution.depends_on_seen and self.seen is None:
            self.seen = seen_tokens(self.sequences, scores)
        uniforms = self.uniforms[:, self.length].to(scores.device)
        tokens, logps = self.distribution.sample(scores, uniforms, self.seen)
        if self.seen is not None:
            self.seen.scatter_(1, tokens[:, None], True)
        self.length += 1
        for sequence, token, logp in zip(self.sequences, tokens.tolist(), logps.tolist(), strict=True):
            if sequence.finish_reason is None:
                sequence.append(token, logp, self.rules)
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens[:, None], 0.0)


class HasEnded(StoppingCriteria):
    """Tells `generate` which sequences have ended, since it knows no stop strings of theirs."""

    def __init__(self, sequences: Sequence[SequenceState]):
        self.sequences = sequences

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # type: ignore[override]
        ended = [sequence.finish_reason is not None for sequence in self.sequences]
        return torch.tensor(ended, device=input_ids.device)


@contextmanager
def _generation_config(config: GenerationConfig, policy: nn.Module) -> Iterator[None]:
    """Puts `config` in the place of every `generation_config` in `policy`, and restores each after.

    Passing it to `generate` is not enough: what it leaves open is taken from the model's own. An adapter and the model
    below may each have one, and peft writes the one into the other.
    """
    name = "generation_config"
    own = {module: vars(module)[name] for module in policy.modules() if name in vars(module)}
    for module in own:
        module.generation_config = config  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, before in own.items():
            module.generation_config = before


def _names(keys: Sequence[int | str] | None, count: int) -> list[int | str]:
    """What each prompt is called in the keys of its random numbers."""
    names: list[int | str] = [k if isinstance(k, str) else int(k) for k in (range(count) if keys is None else keys)]
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"keys: {len(names)} names, {len(set(names))} of them different, for {count} prompts")
    return names

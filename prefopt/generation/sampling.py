"""The door to sampling, and the only place that generates: policy and prompts in, responses out.

Each response is drawn with its own stream of uniform numbers, derived from (seed, stream, key of the prompt, response
number): what is drawn does not depend on how prompts are batched or ordered, and two policies answer with common random
numbers. Models that the fast loop (`decode.py`) cannot serve are sampled by transformers' `generate`, from the same
distribution by the same numbers. A policy that vLLM serves is asked for the same, with random numbers of vLLM's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from ..models.modes import evaluating
from ..models.wrappers import unwrap
from ..utils.flop_counter import is_counting
from .compatibility import served
from .engine import chunked, count, decode, seen_tokens
from .prompts import check_numbers, check_policy, encoded, padded, progress_bar
from .stopping import Ends, Row
from .stopping import Sample as Sample
from .token_sampling import Distribution, uniform_stream
from .vllm import VLLM, take


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

    Of the policy's `generation_config` only the stop tokens count: what is drawn is the policy's own distribution at
    these settings, without a penalty, a ban or a beam search that a checkpoint brings along.

    Args:
        policy: a causal language model, with or without an adapter, or a `VLLM`, which says what differs.
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
    ends = Ends(tokenizer, tuple(stop_token_ids(tokenizer, policy.generation_config)), max_new_tokens, strings)
    streams = [(int(seed), *map(int, stream), name) for name in _names(keys, len(prompts))]
    ids = encoded(prompts, tokenizer, policy, max_new_tokens)
    verbatim = [is_bare(prompt) for prompt in prompts]
    rows = [[Row(i, j, ids[i], (*streams[i], j), bare=verbatim[i]) for j in range(k)] for i in range(len(prompts))]
    # The longest first: memory that does not suffice shows at once.
    order = sorted(rows, key=lambda group: -len(group[0].prompt_ids))
    with progress_bar(k * len(rows), progress) as show:
        _fill(policy, [row for group in order for row in group], distribution, ends, batch_size, show)
    return [[row.sample(ends) for row in group] for group in rows]


def _fill(
    policy: Any,
    rows: list[Row],
    distribution: Distribution,
    ends: Ends,
    batch_size: int,
    done: Callable[[list[Row]], None],
) -> None:
    """Respond by vLLM, if the policy is its, or by the fast loop, if the policy is one that it serves."""
    if isinstance(policy, VLLM):
        return ask(policy, rows, distribution, ends, done)
    with torch.no_grad(), evaluating(policy):
        inner = unwrap(policy)
        if rows and served(inner):
            decode(inner, rows, distribution, ends, batch_size, done)
        else:
            generate(policy, rows, distribution, ends, batch_size, done)


def ask(
    policy: VLLM, rows: list[Row], distribution: Distribution, ends: Ends, done: Callable[[list[Row]], None]
) -> None:
    """Fill in the rows by vLLM, asking again for those that are not at their end when it stops."""
    chunks = list(chunked(rows, max(1, len(rows))))
    while rows:
        take(rows, policy.engine.generate(**policy.requests(rows, distribution, ends)), ends)
        done([row for row in rows if row.ended])
        rows = [row for row in rows if not row.ended]
    if is_counting():
        count(policy.work, chunks)


def generate(
    policy: Any,
    rows: Sequence[Row],
    distribution: Distribution,
    ends: Ends,
    batch_size: int,
    done: Callable[[list[Row]], None],
) -> None:
    """Fill in the rows as `decode` does, by transformers' `generate`, a batch at a time."""
    settings = {"eos_token_id": list(ends.tokens), "pad_token_id": ends.tokens[0]}
    config = GenerationConfig(do_sample=False, max_new_tokens=ends.limit, **settings)
    with _generating_by(config, policy):
        for start in range(0, len(rows), batch_size):
            batch = list(rows[start : start + batch_size])
            policy.generate(
                **padded(batch, policy.device),
                generation_config=config,
                logits_processor=LogitsProcessorList([Drawing(batch, distribution, ends)]),
                stopping_criteria=StoppingCriteriaList([Ended(batch)]),
            )
            done(batch)
    if is_counting():
        count(flops_model_of(unwrap(policy)), [[row] for row in rows])


class Drawing(LogitsProcessor):
    """Turns greedy decoding into sampling: only the token that was drawn survives. Fills in the rows as it goes."""

    def __init__(self, rows: Sequence[Row], distribution: Distribution, ends: Ends):
        self.rows, self.distribution, self.ends = rows, distribution, ends
        self.uniforms = torch.stack([uniform_stream(ends.limit, *row.stream) for row in rows])
        self.seen: Tensor | None = None
        self.age = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.distribution.remembers and self.seen is None:
            self.seen = seen_tokens(self.rows, scores)
        tokens, logps = self.distribution.draw(scores, self.uniforms[:, self.age].to(scores.device), self.seen)
        if self.seen is not None:
            self.seen.scatter_(1, tokens[:, None], True)
        self.age += 1
        for row, token, logp in zip(self.rows, tokens.tolist(), logps.tolist(), strict=True):
            if row.ended is None:
                row.add(token, logp, self.ends)
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens[:, None], 0.0)


class Ended(StoppingCriteria):
    """Tells `generate` which rows have ended, since it knows no stop strings of theirs."""

    def __init__(self, rows: Sequence[Row]):
        self.rows = rows

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # type: ignore[override]
        return torch.tensor([row.ended is not None for row in self.rows], device=input_ids.device)


@contextmanager
def _generating_by(config: GenerationConfig, policy: nn.Module) -> Iterator[None]:
    """`config` in the place of every `generation_config` in `policy`, each restored after.

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

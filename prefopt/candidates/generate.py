"""`generate_into`: responses generated into a pool, a chunk of prompts at a time, so that a kill loses little.

Who scores the responses, and what is done with them, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..data.records import Messages
from ..data.template import Renderer
from ..data.tokenizer_identity import tokenizer_fingerprint
from ..generation.beams import beam_search
from ..generation.prompts import EncodedPrompts, encode_prompts
from ..generation.sampling import sample
from ..generation.stopping import Sample
from ..models.lockstep import in_step
from ..objectives.sampling_arguments import SamplingArguments
from ..utils.distributed import made_by_all, on_first, rank, world_size
from ..utils.renamed import renamed, renamed_arguments
from .candidate import Candidate, candidates_from, prompt_key
from .pool import Pool

BATCHES = 4
"""Sampling batches in a chunk: rows that end make room for others only within one, and a kill costs at most one."""


@dataclass(frozen=True)
class Origin:
    """Where responses come from: what a pool files them under, and what their random numbers are derived from.

    The random numbers of a response are derived from (seed, round, iteration, key of the prompt, number of the
    response), see `uniform_stream`.

    Args:
        version: of the policy, such as its fingerprint.
        temperature: in the place of the settings' own, where a search chose another.
    """

    version: str
    seed: int
    round: int = 0
    iteration: int = 0
    temperature: float | None = None


@renamed_arguments(draw="origin")
def generate_into(
    pool: Pool,
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    settings: SamplingArguments,
    origin: Origin,
    *,
    progress: bool = False,
) -> int:
    """Put `responses_per_prompt` responses to each prompt into the pool; how many were missing there.

    Chunks begin at the same prompts in every run, and one that a kill left unfinished is generated again as a whole:
    the same responses are computed in the same batches, so that the pool ends up the same, byte for byte. Several
    processes take chunks in turn, and the first writes.

    Args:
        prompts: lists of {role, content}, each once; or what `encode_prompts` made of them, which is not encoded again.
        settings: how to sample, and how many responses.

    Raises:
        ValueError: a prompt that occurs twice, or one that sampling refuses; the message has its number.
        PoolError: responses in their places were sampled otherwise.
        OSError: the pool could not be written; what it held is intact.
    """
    encoded = _checked(prompts, policy, tokenizer, settings)
    chunks = list(_chunks(encoded, settings))
    missing = on_first(lambda: [i for i, chunk in enumerate(chunks) if _is_missing(pool, chunk, settings, origin)])

    def generated(numbers: Sequence[int]) -> list[tuple[list[Candidate], int]]:
        with in_step(policy) if isinstance(policy, nn.Module) else nullcontext():
            return [_candidates(policy, tokenizer, chunks[number], settings, origin) for number in numbers]

    new, total = 0, sum(len(chunks[number]) for number in missing) * settings.responses_per_prompt
    with tqdm(total=total, desc="sampling", unit="response", disable=not progress or rank() > 0) as bar:
        for start in range(0, len(missing), world_size()):
            own = missing[start + rank() : start + rank() + 1]
            for candidates, tokens in chain.from_iterable(made_by_all(partial(generated, own))):
                new += on_first(partial(pool.append, candidates))
                _show(bar, len(candidates), tokens)
    return new


def _checked(
    prompts: Sequence[Messages], policy: Any, tokenizer: PreTrainedTokenizerBase, settings: SamplingArguments
) -> EncodedPrompts:
    """The prompts with their ids, before anything is sampled: hours later is too late for one that does not fit."""
    settings.check_sampling()
    if not prompts:
        raise ValueError("there are no prompts to respond to")
    check_distinct(prompts)
    return encode_prompts(prompts, tokenizer, policy, settings.max_new_tokens)


def check_distinct(prompts: Sequence[Messages]) -> None:
    """Raise ValueError if a prompt occurs twice; the message has its numbers."""
    first: dict[str, int] = {}
    for number, prompt in enumerate(prompts):
        earlier = first.setdefault(prompt_key(prompt), number)
        if earlier != number:
            raise ValueError(f"prompt {number} is the same as prompt {earlier}: give each once")


def _chunks(prompts: EncodedPrompts, settings: SamplingArguments) -> Iterator[EncodedPrompts]:
    size = max(1, BATCHES * settings.sampling_batch_size // settings.responses_per_prompt)
    for start in range(0, len(prompts), size):
        yield prompts[start : start + size]


def _is_missing(pool: Pool, chunk: Sequence[Messages], settings: SamplingArguments, origin: Origin) -> bool:
    """Whether the pool lacks any response of a chunk."""
    keys = (prompt_key(prompt) for prompt in chunk)
    wanted = ((origin.round, origin.iteration, key, k) for key in keys for k in range(settings.responses_per_prompt))
    return not all(map(pool.has, wanted))


def _candidates(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    chunk: Sequence[Messages],
    settings: SamplingArguments,
    origin: Origin,
) -> tuple[list[Candidate], int]:
    """The candidates of a chunk, and how many tokens they have."""
    samples = sample_responses(policy, tokenizer, chunk, settings, origin)
    candidates = candidates_from(
        chunk,
        samples,
        round=origin.round,
        iteration=origin.iteration,
        policy=origin.version,
        temperature=_temperature(settings, origin),
        seed=origin.seed,
        end=Renderer(tokenizer, policy.generation_config).end,  # type: ignore[arg-type]
        tokenizer=tokenizer_fingerprint(tokenizer),
    )
    return candidates, sum(len(sample.ids) for responses in samples for sample in responses)


def _temperature(settings: SamplingArguments, origin: Origin) -> float:
    return settings.temperature if origin.temperature is None else origin.temperature


def sample_responses(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    settings: SamplingArguments,
    origin: Origin,
    *,
    keys: Sequence[str] | None = None,
    progress: bool = False,
) -> list[list[Sample]]:
    """Responses to each prompt from the source that the settings name, or from both: sampling and beam search.

    Args:
        keys: names of the prompts, which tell those apart that occur twice; by default their keys.
    """
    keys = [prompt_key(prompt) for prompt in prompts] if keys is None else keys
    common: dict[str, Any] = {
        "temperature": _temperature(settings, origin),
        "progress": progress,
        **settings.limits,
    }
    samples: list[list[Sample]] = [[] for _ in prompts]
    if sampled := settings.responses_per_prompt - settings.searched:
        stream = (origin.round, origin.iteration)
        chance: dict[str, Any] = {"seed": origin.seed, "stream": stream, "keys": keys, **settings.shape}
        samples = sample(policy, tokenizer, prompts, k=sampled, **chance, **common)
    if beams := settings.searched:
        diversity: dict[str, Any] = {"groups": beams, "diversity_penalty": settings.diversity_penalty}
        searched = beam_search(policy, tokenizer, prompts, k=beams, **diversity, **common)
        samples = [a + b for a, b in zip(samples, searched, strict=True)]
    return samples


def _show(bar: Any, count: int, tokens: int) -> None:
    bar.update(count)
    elapsed = max(bar.format_dict["elapsed"], 1e-9) if not bar.disable else 1.0
    bar.tokens = getattr(bar, "tokens", 0) + tokens
    bar.set_postfix_str(f"{bar.tokens / elapsed:.0f} tokens/s", refresh=False)


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Draw": "Origin", "fill": "generate_into", "responses": "sample_responses"})

"""Responses drawn into a pool, a chunk of prompts at a time, so that little is lost when a run is killed.

Knows policies, prompts and the pool; not who scores the responses or what is done with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..data.records import Messages
from ..data.template import Renderer
from ..generation.beams import beam_search
from ..generation.prompts import encoded
from ..generation.sampling import sample
from ..generation.stopping import Sample
from ..objectives.sampling_arguments import SamplingArguments
from ..utils.distributed import gathered, on_first, rank, world_size
from .candidate import Candidate, candidates_from, prompt_key
from .pool import Pool

BATCHES = 4
"""Sampling batches in a chunk: rows that end make room for others only within one, and a kill costs at most one."""


@dataclass(frozen=True)
class Draw:
    """Where responses belong, and the random numbers that they are drawn by.

    Args:
        version: of the policy, such as its fingerprint.
        temperature: in the place of the settings' own, where a search found another.
    """

    version: str
    seed: int
    round: int = 0
    iteration: int = 0
    temperature: float | None = None


def fill(
    pool: Pool,
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    settings: SamplingArguments,
    draw: Draw,
    *,
    progress: bool = False,
) -> int:
    """Put `responses_per_prompt` responses to each prompt into the pool; how many were missing there.

    Chunks begin at the same prompts in every run, and one that a kill left unfinished is drawn again as a whole: the
    same responses are computed in the same batches, so that the pool ends up the same, byte for byte. Several
    processes take chunks in turn, and the first writes.

    Raises:
        ValueError: a prompt that occurs twice, or one that sampling refuses; the message has its number.
        PoolError: responses in their places were drawn otherwise.
        OSError: the pool could not be written; what it held is intact.
    """
    _check(prompts, policy, tokenizer, settings)
    chunks = list(_chunks(prompts, settings))
    missing = on_first(lambda: [i for i, chunk in enumerate(chunks) if _incomplete(pool, chunk, settings, draw)])
    new, left = 0, sum(len(chunks[number]) for number in missing) * settings.responses_per_prompt
    with tqdm(total=left, desc="sampling", unit="response", disable=not progress or rank() > 0) as bar:
        for start in range(0, len(missing), world_size()):
            mine = missing[start + rank() : start + rank() + 1]
            drawn = [_drawn(policy, tokenizer, chunks[number], settings, draw) for number in mine]
            for found, tokens in (part for parts in gathered(drawn) for part in parts):
                new += on_first(partial(pool.append, found))
                _show(bar, len(found), tokens)
    return new


def _check(
    prompts: Sequence[Messages], policy: Any, tokenizer: PreTrainedTokenizerBase, settings: SamplingArguments
) -> None:
    """Before anything is drawn: hours later is too late for a prompt that does not fit."""
    settings.check_sampling()
    if not prompts:
        raise ValueError("there are no prompts to respond to")
    first: dict[str, int] = {}
    for number, prompt in enumerate(prompts):
        if (there := first.setdefault(prompt_key(prompt), number)) != number:
            raise ValueError(f"prompt {number} is the same as prompt {there}: give each once")
    encoded(prompts, tokenizer, policy, settings.max_new_tokens)


def _chunks(prompts: Sequence[Messages], settings: SamplingArguments) -> Iterator[list[Messages]]:
    size = max(1, BATCHES * settings.sampling_batch_size // settings.responses_per_prompt)
    for start in range(0, len(prompts), size):
        yield list(prompts[start : start + size])


def _incomplete(pool: Pool, chunk: Sequence[Messages], settings: SamplingArguments, draw: Draw) -> bool:
    keys = (prompt_key(prompt) for prompt in chunk)
    wanted = ((draw.round, draw.iteration, key, k) for key in keys for k in range(settings.responses_per_prompt))
    return not all(map(pool.has, wanted))


def _drawn(
    policy: Any, tokenizer: PreTrainedTokenizerBase, chunk: list[Messages], settings: SamplingArguments, draw: Draw
) -> tuple[list[Candidate], int]:
    """The candidates of a chunk, and how many tokens they have."""
    temperature = settings.temperature if draw.temperature is None else draw.temperature
    samples = responses(policy, tokenizer, chunk, settings, draw, temperature)
    end: Any = Renderer(tokenizer, policy.generation_config).end
    where: dict[str, Any] = {"round": draw.round, "iteration": draw.iteration, "policy": draw.version, "end": end}
    found = candidates_from(chunk, samples, **where, temperature=temperature, seed=draw.seed)
    return found, sum(len(one.ids) for row in samples for one in row)


def responses(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    settings: SamplingArguments,
    draw: Draw,
    temperature: float,
    keys: Sequence[str] | None = None,
    progress: bool = False,
) -> list[list[Sample]]:
    """From the source that the settings name, or from both. `keys` tell prompts apart that occur twice."""
    keys = [prompt_key(prompt) for prompt in prompts] if keys is None else keys
    common: dict[str, Any] = {"temperature": temperature, "progress": progress, **settings.limits}
    found: list[list[Sample]] = [[] for _ in prompts]
    if drawn := settings.responses_per_prompt - settings.searched:
        stream = (draw.round, draw.iteration)
        chance: dict[str, Any] = {"seed": draw.seed, "stream": stream, "keys": keys, **settings.shape}
        found = sample(policy, tokenizer, prompts, k=drawn, **chance, **common)
    if beams := settings.searched:
        apart: dict[str, Any] = {"groups": beams, "diversity_penalty": settings.diversity_penalty}
        searched = beam_search(policy, tokenizer, prompts, k=beams, **apart, **common)
        found = [a + b for a, b in zip(found, searched, strict=True)]
    return found


def _show(bar: Any, count: int, tokens: int) -> None:
    bar.update(count)
    elapsed = max(bar.format_dict["elapsed"], 1e-9) if not bar.disable else 1.0
    bar.tokens = getattr(bar, "tokens", 0) + tokens
    bar.set_postfix_str(f"{bar.tokens / elapsed:.0f} tokens/s", refresh=False)

"""`best_of_n`: samples N responses to each prompt, scores them and returns the best, all in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..data.records import Messages
from ..generation.prompts import encode_prompts
from ..generation.stopping import Sample
from ..objectives.sampling_arguments import SamplingArguments
from ..scoring.load import scorer_from
from ..scoring.scorer import score_samples
from .candidate import prompt_key
from .generate import Origin, sample_responses


@dataclass(frozen=True)
class BestOfN:
    """The chosen response to a prompt.

    Args:
        sample: the response.
        score: its score.
        scores: those of all N, in the order in which they were sampled.
    """

    sample: Sample
    score: float
    scores: list[float]


def best_of_n(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    scorer: Any,
    settings: SamplingArguments,
    *,
    seed: int = 0,
    progress: bool = False,
) -> list[BestOfN]:
    """The response with the highest score of `responses_per_prompt` to each prompt, in the order of the prompts.

    A response that was truncated at the length limit is chosen only where none of its prompt terminated. Of equal
    scores the first sampled is chosen. A prompt that occurs twice gets other responses the second time.

    Args:
        policy: a causal language model, with or without an adapter.
        prompts: lists of {role, content}.
        scorer: a reward model (path, hub id or model), a function of (prompts, responses), or a scorer.
        settings: how to sample, and how many responses.
        seed: of the random numbers.

    Raises:
        ValueError: a setting outside its range, or a prompt that sampling refuses.
        ScoreError: the scorer did not give one finite number per response.
    """
    settings.check_sampling()
    scorer = scorer_from(scorer)
    if not prompts:
        return []
    prompts = encode_prompts(prompts, tokenizer, policy, settings.max_new_tokens)
    samples = sample_responses(
        policy, tokenizer, prompts, settings, Origin("", seed), keys=list(_keys(prompts)), progress=progress
    )
    scores = iter(score_samples(scorer, prompts, samples))
    return [_choose(responses, [next(scores) for _ in responses]) for responses in samples]


def _choose(samples: Sequence[Sample], scores: list[float]) -> BestOfN:
    number = best_of(samples, scores)
    return BestOfN(samples[number], scores[number], scores)


def _keys(prompts: Sequence[Messages]) -> Iterator[str]:
    """A prompt's key, and from its second occurrence on another one: random numbers depend on keys."""
    seen: Counter[str] = Counter()
    for prompt in prompts:
        key = prompt_key(prompt)
        yield f"{key} {seen[key]}" if seen[key] else key
        seen[key] += 1


def best_of(samples: Sequence[Sample], scores: Sequence[float]) -> int:
    """Which response is chosen: of those that terminated, if any did, the first with the highest score."""
    finished = [number for number, sample in enumerate(samples) if sample.finished]
    return max(finished or range(len(samples)), key=lambda number: scores[number])

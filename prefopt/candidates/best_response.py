"""The best of N responses to each prompt, in memory: draws, scores and chooses. Knows no folder; trains nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..data.records import Messages
from ..generation.stopping import Sample
from ..objectives.sampling_arguments import SamplingArguments
from ..scoring.load import scorer_from
from ..scoring.scorer import score_samples
from .candidate import prompt_key
from .generate import Draw, responses


@dataclass(frozen=True)
class BestOfN:
    """The chosen response to a prompt.

    Args:
        sample: the response.
        score: its score.
        scores: those of all N, in the order in which they were drawn.
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

    A response that was cut off at the length limit is chosen only where none of its prompt finished. Of equal scores
    the first drawn is chosen. A prompt that occurs twice draws other responses the second time.

    Args:
        policy: a causal language model, with or without an adapter.
        prompts: lists of {role, content}.
        scorer: a reward model (path, hub id or model), a function of (prompts, responses), or a scorer.
        settings: how to draw, and how many.

    Raises:
        ValueError: a setting outside its range, or a prompt that sampling refuses.
        ScoreError: the scorer did not give one finite number per response.
    """
    settings.check_sampling()
    judge = scorer_from(scorer)
    if not prompts:
        return []
    where = Draw("", seed)
    drawn = responses(policy, tokenizer, prompts, settings, where, settings.temperature, list(_keys(prompts)), progress)
    scores = iter(score_samples(judge, prompts, drawn))
    return [_chosen(samples, [next(scores) for _ in samples]) for samples in drawn]


def _chosen(samples: Sequence[Sample], scores: list[float]) -> BestOfN:
    number = best_of(samples, scores)
    return BestOfN(samples[number], scores[number], scores)


def _keys(prompts: Sequence[Messages]) -> Iterator[str]:
    """A prompt's key, and from its second occurrence on another one: random numbers are drawn by keys."""
    seen: Counter[str] = Counter()
    for prompt in prompts:
        key = prompt_key(prompt)
        yield f"{key} {seen[key]}" if seen[key] else key
        seen[key] += 1


def best_of(samples: Sequence[Sample], scores: Sequence[float]) -> int:
    """Which response is chosen: of those that finished, if any did, the first with the highest score."""
    finished = [number for number, one in enumerate(samples) if one.finished]
    return max(finished or range(len(samples)), key=lambda number: scores[number])

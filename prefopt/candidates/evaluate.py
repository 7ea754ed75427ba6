"""`evaluate_policy`: what a policy's responses to held-out prompts are worth by a scorer, one response to each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.records import Messages
from ..generation.prompts import encode_prompts
from ..generation.sampling import sample
from ..generation.stopping import Sample
from ..objectives.sampling_arguments import SamplingArguments
from ..scoring.scorer import Scorer, score_samples
from ..utils.distributed import made_by_all, or_all_stop, rank, world_size
from .diversity import degenerate

STREAM = (-1,)
"""Sets the random numbers apart from those of responses to train on, whose rounds count from 0."""

REWARD = "objective/rlhf_reward"
METRICS = (REWARD, "objective/scores", "response_length", "unfinished", "degenerate")
SPREAD = ("objective/scores", "response_length")
"""Metrics that have a standard error beside them."""


@dataclass(frozen=True)
class Evaluated:
    """One response to each prompt, and what the scorer gave it."""

    samples: list[Sample]
    scores: list[float]

    def metrics(self) -> dict[str, float]:
        """Means over prompts; `_se` is the standard error of one. The names are those of TRL's PPO trainer."""
        values: dict[str, list[float]] = {
            REWARD: self.scores,
            "objective/scores": self.scores,
            "response_length": [len(sample.ids) for sample in self.samples],
            "unfinished": [not sample.finished for sample in self.samples],
            "degenerate": [degenerate(sample.text) for sample in self.samples],
        }
        means = {name: float(np.mean(of_prompts)) for name, of_prompts in values.items()}
        spread = SPREAD if len(self.samples) > 1 else ()
        return means | {f"{name}_se": standard_error(np.array(values[name])) for name in spread}


def evaluate_policy(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    scorer: Scorer,
    settings: SamplingArguments,
    seed: int,
) -> Evaluated:
    """Sample one response to each prompt and score it. Several processes share the prompts, and all get the result.

    Args:
        prompts: lists of {role, content}.
        settings: how to sample; always one response.
        seed: of the random numbers, which are others than those of responses to train on.

    Raises:
        ValueError: no prompts, or one that sampling refuses.
        ScoreError: the scorer did not give one finite number per response.
    """
    if not prompts:
        raise ValueError("there are no held-out prompts: pass an eval_dataset with rows to the trainer")
    own = range(rank(), len(prompts), world_size())
    own_prompts = [prompts[number] for number in own]

    def responses() -> list[list[Sample]]:
        return sample(
            policy,
            tokenizer,
            encoded,
            temperature=settings.temperature,
            seed=seed,
            stream=STREAM,
            keys=list(own),
            **settings.shape,
            **settings.limits,
        )

    def responses_and_scores() -> list[tuple[int, Sample, float]]:
        scores = score_samples(scorer, own_prompts, samples)
        return [(number, row[0], score) for number, row, score in zip(own, samples, scores, strict=True)]

    # Each step ends for all or for none: models whose weights processes share are run by all of them.
    encoded = or_all_stop(lambda: encode_prompts(own_prompts, tokenizer, policy, settings.max_new_tokens))
    samples = or_all_stop(responses)

    shares = made_by_all(responses_and_scores)
    by_number = {number: (response, score) for share in shares for number, response, score in share}
    in_order = [by_number[number] for number in range(len(prompts))]
    return Evaluated([response for response, _ in in_order], [score for _, score in in_order])


def standard_error(values: np.ndarray) -> float:
    """The standard error of the mean of two or more independent values: [n] -> a number."""
    return float(values.std(ddof=1) / math.sqrt(len(values)))

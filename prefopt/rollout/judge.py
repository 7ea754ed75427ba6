"""How good a policy's responses to held-out prompts are, by a scorer: one response to each, from its own seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..sampling import SamplingArguments
from .diversity import degenerate
from .ranks import gathered, rank, world_size
from .response import Sample
from .sample import sample
from .score import Messages, Scorer

STREAM = (-1,)
"""Sets the random numbers apart from those of responses to train on, whose rounds count from 0."""


@dataclass(frozen=True)
class Judged:
    """One response to each prompt, and what the scorer gave it."""

    samples: list[Sample]
    scores: list[float]

    def metrics(self) -> dict[str, float]:
        """Means over prompts; `_se` is the standard error of one. The names are those of TRL's PPO trainer."""
        scores, lengths = np.array(self.scores), np.array([len(one.ids) for one in self.samples])
        unfinished = np.array([not one.finished for one in self.samples])
        repeating = np.array([degenerate(one.text) for one in self.samples])
        return {
            "objective/rlhf_reward": float(scores.mean()),
            "objective/scores": float(scores.mean()),
            "objective/scores_se": standard_error(scores),
            "response_length": float(lengths.mean()),
            "response_length_se": standard_error(lengths),
            "unfinished": float(unfinished.mean()),
            "degenerate": float(repeating.mean()),
        }


def judge(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    scorer: Scorer,
    settings: SamplingArguments,
    seed: int,
) -> Judged:
    """Draw by the settings and score. Several processes share the prompts, and all of them get the result."""
    mine = range(rank(), len(prompts), world_size())
    drawn = sample(
        policy,
        tokenizer,
        [prompts[number] for number in mine],
        temperature=settings.temperature,
        seed=seed,
        stream=STREAM,
        keys=list(mine),
        **settings.shape,
        **settings.limits,
    )
    own = [row[0] for row in drawn]
    texts, finished = [one.text for one in own], [one.finished for one in own]
    scores = scorer.score([prompts[number] for number in mine], texts, finished)
    found = {number: each for part in gathered(list(zip(mine, own, scores, strict=True))) for number, *each in part}
    ordered = [found[number] for number in range(len(prompts))]
    return Judged([one for one, _ in ordered], [score for _, score in ordered])


def standard_error(values: np.ndarray) -> float:
    """Of the mean of independent values; NaN for one."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan

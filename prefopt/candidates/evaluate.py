"""How good a policy's responses to held-out prompts are, by a scorer: one response to each, from its own seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.records import Messages
from ..generation.sampling import sample
from ..generation.stopping import Sample
from ..objectives.sampling_arguments import SamplingArguments
from ..scoring.scorer import Scorer, score_samples
from ..utils.distributed import gathered, rank, world_size
from .diversity import degenerate

STREAM = (-1,)
"""Sets the random numbers apart from those of responses to train on, whose rounds count from 0."""

REWARD = "objective/rlhf_reward"
METRICS = (REWARD, "objective/scores", "response_length", "unfinished", "degenerate")
SPREAD = ("objective/scores", "response_length")
"""What has a standard error beside it."""


@dataclass(frozen=True)
class Evaluated:
    """One response to each prompt, and what the scorer gave it."""

    samples: list[Sample]
    scores: list[float]

    def metrics(self) -> dict[str, float]:
        """Means over prompts; `_se` is the standard error of one. The names are those of TRL's PPO trainer."""
        found: dict[str, list[float]] = {
            REWARD: self.scores,
            "objective/scores": self.scores,
            "response_length": [len(one.ids) for one in self.samples],
            "unfinished": [not one.finished for one in self.samples],
            "degenerate": [degenerate(one.text) for one in self.samples],
        }
        means = {name: float(np.mean(values)) for name, values in found.items()}
        spread = SPREAD if len(self.samples) > 1 else ()
        return means | {f"{name}_se": standard_error(np.array(found[name])) for name in spread}


def evaluate_policy(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    scorer: Scorer,
    settings: SamplingArguments,
    seed: int,
) -> Evaluated:
    """Draw by the settings and score. Several processes share the prompts, and all of them get the result.

    Raises:
        ValueError: no prompts, or one that sampling refuses.
        ScoreError: the scorer did not give one finite number per response.
    """
    if not prompts:
        raise ValueError("there are no held-out prompts: pass an eval_dataset with rows to the trainer")
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
    scores = score_samples(scorer, [prompts[number] for number in mine], drawn)
    own = [row[0] for row in drawn]
    found = {number: each for part in gathered(list(zip(mine, own, scores, strict=True))) for number, *each in part}
    ordered = [found[number] for number in range(len(prompts))]
    return Evaluated([one for one, _ in ordered], [score for _, score in ordered])


def standard_error(values: np.ndarray) -> float:
    """Of the mean of two or more independent values."""
    return float(values.std(ddof=1) / math.sqrt(len(values)))

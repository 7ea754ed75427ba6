"""Evaluates a policy on the synthetic task: by the gold reward of its responses to held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..batch import Batch
from ..data.collate import collate
from ..generation.sampling import Sample, sample
from ..models.forward import forward
from ..models.modes import evaluating
from ..utils.tensors import masked_sum
from .gold_reward import gold
from .prompts import Prompt
from .recipe import Recipe


@dataclass(frozen=True)
class Measured:
    """One response per prompt: its gold reward, length in tokens, whether it terminated, log pi - log pi_ref; [n] each.

    At temperature 1 the mean of `log_ratio` is an unbiased estimate of KL(policy || reference).
    """

    samples: list[Sample]
    gold: np.ndarray
    length: np.ndarray
    finished: np.ndarray
    log_ratio: np.ndarray

    def mean_gold(self) -> tuple[float, float]:
        """Mean and standard error."""
        return float(self.gold.mean()), float(self.gold.std(ddof=1) / len(self.gold) ** 0.5)


def measure(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    reference: Any = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> Measured:
    """Sample one response per prompt and score it by the gold reward; `log_ratio` is 0 without a reference."""
    tokens = Recipe().max_new_tokens
    rows = sample(
        policy, tokenizer, [p.messages for p in prompts], temperature=temperature, seed=seed, max_new_tokens=tokens
    )
    samples = [row[0] for row in rows]
    rewards = [gold(prompt, s.text, s.finished) for prompt, s in zip(prompts, samples, strict=True)]
    log_ratio = np.zeros(len(samples))
    if reference is not None:
        log_ratio = _logps(policy, samples) - _logps(reference, samples)
    length, finished = [len(s.ids) for s in samples], [s.finished for s in samples]
    return Measured(samples, np.array(rewards), np.array(length), np.array(finished), log_ratio)


def _logps(policy: Any, samples: list[Sample], size: int = 64) -> np.ndarray:
    """Log-probability of each response: [n]."""
    logps = []
    with torch.no_grad(), evaluating(policy):
        for start in range(0, len(samples), size):
            rows = [{"prompt_ids": s.prompt_ids, "response_ids": [s.ids]} for s in samples[start : start + size]]
            batch = Batch({name: column.to(policy.device) for name, column in collate(rows).items()})
            out = forward(policy, batch, frozenset({"logps"}))
            logps.append(masked_sum(out.required("logps"), batch.loss_mask)[:, 0])
    return torch.cat(logps).double().cpu().numpy()

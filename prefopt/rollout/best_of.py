"""What the best of K responses is worth, from more than K scored responses to each prompt. Numbers only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Estimate(NamedTuple):
    """A mean over prompts and its confidence interval."""

    mean: float
    low: float
    high: float


def expected_best(scores: np.ndarray, k: int) -> np.ndarray:
    """The expected highest score of `k` responses drawn from the same policy, for each prompt: [G, n] -> [G].

    The mean over all subsets of size k, which is unbiased: with x_(1) <= ... <= x_(n), the i-th is the best of
    C(i - 1, k - 1) of the C(n, k) subsets.

    Raises:
        ValueError: fewer than `k` responses, or a score that is not a number.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or not 1 <= k <= scores.shape[1]:
        raise ValueError(f"scores of shape {scores.shape} say nothing of the best of {k}: give [prompts, n >= k >= 1]")
    if not np.isfinite(scores).all():
        raise ValueError(f"prompt {int(np.argwhere(~np.isfinite(scores))[0, 0])} has a score that is not finite")
    return np.sort(scores, axis=1) @ _weights(scores.shape[1], k)


def _weights(n: int, k: int) -> np.ndarray:
    """[n]: the share of subsets of which each order statistic is the best."""
    subsets = math.comb(n, k)
    return np.array([math.comb(i, k - 1) / subsets for i in range(n)])  # Python's own integers: no overflow


def best_of_curve(scores: np.ndarray, ks: Sequence[int], level: float = 0.95) -> dict[int, Estimate]:
    """For each k the mean over prompts of `expected_best`, with Student's interval over prompts.

    Prompts are what varies here: the interval says where the mean over other prompts like these would lie.
    """
    return {k: interval(expected_best(scores, k), level) for k in ks}


def interval(values: np.ndarray, level: float = 0.95) -> Estimate:
    """Mean of independent values and Student's interval around it: [n] -> Estimate. One value has no interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, -math.inf, math.inf)
    half = stats.sem(values) * stats.t.ppf((1 + level) / 2, len(values) - 1)
    return Estimate(mean, mean - float(half), mean + float(half))

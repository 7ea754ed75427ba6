"""The unbiased estimate of the best of K (`expected_best`), and of the median and mean, from n >= K scored responses.

Everything here is about numbers: the scores of each prompt's responses, whoever gave them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

Scores = np.ndarray | Sequence[Sequence[float]]
"""[G, n]: for each of G prompts the scores of n responses."""
STATISTICS = ("max", "mean", "median")


class Estimate(NamedTuple):
    """A mean over prompts and its confidence interval."""

    mean: float
    low: float
    high: float


def expected_order_statistic(scores: Scores, k: int, j: int) -> np.ndarray:
    """The expected j-th lowest score of `k` responses sampled from the same policy, for each prompt: [G, n] -> [G].

    The mean over all subsets of size k, which is unbiased: with x_(1) <= ... <= x_(n), the i-th is the j-th lowest of
    C(i - 1, j - 1) C(n - i, k - j) of the C(n, k) subsets, those that have j - 1 of the i - 1 below it.

    Raises:
        ValueError: fewer than `k` responses, a prompt that has fewer than others, or a score that is not a number.
    """
    scores = _checked(scores, k)
    if not 1 <= j <= k:
        raise ValueError(f"j={j}: {k} responses have the order statistics 1 (the lowest) to {k} (the highest)")
    return np.sort(scores, axis=1) @ _weights(scores.shape[1], k, j)


def expected_best(scores: Scores, k: int) -> np.ndarray:
    """The expected highest score of `k` responses for each prompt, without bias, see `expected_order_statistic`.

    Args:
        scores: [G, n], of n >= k responses to each prompt.

    Returns:
        [G], in the units of the scores.
    """
    return expected_order_statistic(scores, k, k)


def expected_median(scores: Scores, k: int) -> np.ndarray:
    """The expected median score of `k` responses for each prompt; of an even k the two in the middle count half.

    Args:
        scores: [G, n], of n >= k responses to each prompt.

    Returns:
        [G], in the units of the scores.
    """
    low, high = (k + 1) // 2, k // 2 + 1
    return (expected_order_statistic(scores, k, low) + expected_order_statistic(scores, k, high)) / 2


def _checked(scores: Scores, k: int) -> np.ndarray:
    """The scores as an array of float64, [G, n] with n >= k; see `expected_order_statistic` for errors."""
    if not isinstance(scores, np.ndarray):
        _check_lengths([len(row) for row in scores])
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 2 or not 1 <= k <= array.shape[1]:
        raise ValueError(f"scores of shape {array.shape} say nothing of the best of {k}: give [prompts, n >= k >= 1]")
    if not np.isfinite(array).all():
        raise ValueError(f"prompt {int(np.argwhere(~np.isfinite(array))[0, 0])} has a score that is not finite")
    return array


def _check_lengths(lengths: list[int]) -> None:
    for number, length in enumerate(lengths):
        if length < max(lengths):
            raise ValueError(
                f"prompt {number} has {length} scores, prompt {lengths.index(max(lengths))} has {max(lengths)}: sample "
                "the rest, or give as many of each"
            )


def _weights(n: int, k: int, j: int) -> np.ndarray:
    """[n]: the share of subsets of size k of which each order statistic is the j-th lowest."""
    subsets = math.comb(n, k)  # Python's own integers: no overflow
    return np.array([math.comb(i, j - 1) * math.comb(n - 1 - i, k - j) / subsets for i in range(n)])


def best_of_curve(scores: Scores, ks: Sequence[int], level: float = 0.95) -> dict[int, Estimate]:
    """For each k the mean over prompts of `expected_best`, with Student's interval over prompts.

    Prompts are what varies here: the interval says where the mean over other prompts like these would lie.
    """
    return {k: interval(expected_best(scores, k), level) for k in ks}


def reward_curves(scores: Scores, ks: Sequence[int], level: float = 0.95) -> dict[int, dict[str, Estimate]]:
    """For each k the expected `max`, `mean` and `median` score of k responses, as `best_of_curve` has the first.

    Maximum and median against the number of responses are Figure 7 of Llama 2 (arXiv:2307.09288): their gap is what
    training on the best could gain. The mean is the same for every k.
    """
    curves: dict[int, dict[str, Estimate]] = {}
    for k in ks:
        values = (expected_best(scores, k), np.mean(_checked(scores, k), axis=1), expected_median(scores, k))
        curves[k] = {name: interval(value, level) for name, value in zip(STATISTICS, values, strict=True)}
    return curves


def doublings(k: int) -> list[int]:
    """The numbers of responses that a curve is computed at: 1, 2, 4, ... up to k, and k."""
    return sorted({2**power for power in range(k.bit_length())} | {k})


def interval(values: np.ndarray, level: float = 0.95) -> Estimate:
    """Mean of independent values and Student's interval around it: [n] -> Estimate. One value has no interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, -math.inf, math.inf)
    half = stats.sem(values) * stats.t.ppf((1 + level) / 2, len(values) - 1)
    return Estimate(mean, mean - float(half), mean + float(half))

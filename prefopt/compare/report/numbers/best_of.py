"""Computes what the best of K responses by the score is worth, by score and by gold reward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy import integrate, special, stats

from prefopt.candidates.order_statistics import doublings, expected_best, expected_median

from ..findings import BestOfCurve, Value
from .means import Means
from .tables import Data

SELECTED = "best-of-n"
"""Its responses are best ones already."""


def best_of_curves(data: Data, means: Means) -> list[BestOfCurve]:
    """Of every method with a score and two or more responses to each prompt.

    As `candidates.order_statistics.reward_curves`, with intervals by seeds and prompts: rows of several seeds depend
    on each other.
    """
    curves = []
    for name, table in data.known("score").items():
        by_seed = data.cells[name]
        if table.values.shape[-1] > 1 and next(iter(by_seed.values())).method != SELECTED:
            gold = data.responses.table(name, "gold")
            both = gold is not None and gold.seeds == table.seeds
            curves.append(_curve(name, table.values, gold.values if gold and both else None, means))
    return curves


def _curve(name: str, scores: np.ndarray, gold: np.ndarray | None, means: Means) -> BestOfCurve:
    """scores, gold: [seeds, prompts, n]"""
    seeds, prompts, n = scores.shape
    ks, rows = doublings(n), scores.reshape(-1, n)

    def over(values: np.ndarray) -> Value:
        return means.of(values.reshape(seeds, prompts))

    return BestOfCurve(
        name,
        ks,
        best=[over(expected_best(rows, k)) for k in ks],
        median=[over(expected_median(rows, k)) for k in ks],
        predicted=[gaussian_best(rows, k) for k in ks],
        gold=None if gold is None else [over(gold_of_best(rows, gold.reshape(-1, n), k)) for k in ks],
    )


def gaussian_best(scores: np.ndarray, k: int) -> float:
    """The expected highest of k, were each prompt's scores Gaussian with its own mean and deviation: [G, n] -> number.

        mean over prompts of  m_p + E[max of k standard normals] s_p / c4(n)

    s_p, the root of the unbiased variance, is too small on average by c4(n), .80 of two responses and .92 of four;
    divided by that, the prediction of Gaussian scores is unbiased, however few the responses.
    """
    n = scores.shape[1]
    c4 = math.sqrt(2 / (n - 1)) * float(np.exp(special.gammaln(n / 2) - special.gammaln((n - 1) / 2)))
    return float(scores.mean() + normal_best(k) * scores.std(axis=1, ddof=1).mean() / c4)


@cache
def normal_best(k: int) -> float:
    """E of the highest of k standard normals: the integral of k x phi(x) Phi(x)^(k - 1)."""
    return float(integrate.quad(lambda x: k * x * stats.norm.pdf(x) * stats.norm.cdf(x) ** (k - 1), -12, 12)[0])


def gold_of_best(scores: np.ndarray, gold: np.ndarray, k: int) -> np.ndarray:
    """Expected gold of the response with the highest score of k: [G, n], [G, n] -> [G]

    The mean over all subsets of size k, as `rollout.best_of.expected_best` of the score: the i-th lowest score is the
    highest in C(i - 1, k - 1) of them. Responses of the same score are picked as often as each other.
    """
    n = scores.shape[1]
    order = np.argsort(scores, axis=1, kind="stable")
    scores, gold = (np.take_along_axis(each, order, axis=1) for each in (scores, gold))
    starts = np.ones(scores.shape, dtype=bool)
    starts[:, 1:] = scores[:, 1:] != scores[:, :-1]
    group = starts.ravel().cumsum() - 1
    shared = (np.bincount(group, weights=gold.ravel()) / np.bincount(group))[group].reshape(gold.shape)
    return shared @ np.array(_shares(n, k))


def _shares(n: int, k: int) -> Sequence[float]:
    """Of the subsets of size k: in which the i-th lowest of n is the highest."""
    return [math.comb(i, k - 1) / math.comb(n, k) for i in range(n)]

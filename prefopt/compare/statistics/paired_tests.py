"""Tests of two checkpoints on the same prompts, and p-values corrected for many comparisons (Holm).

    paired(dpo.gold, sft.gold).mean, .interval, .p_flip

What varies here is the prompt, and the sampling of responses to it: all this is about two checkpoints. That one METHOD
is better than another needs several seeds of both: see `methods`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from scipy import special, stats

from .checks import aligned, apart, constant, numbers, several
from .claims import Interval
from .power_analysis import detectable

CELLS = 2**22
"""Resampled values held at once."""
Name = TypeVar("Name")


@dataclass(frozen=True)
class Paired:
    """How the first of two checkpoints differs from the second, prompt by prompt.

    Args:
        prompts: how many.
        mean: of the differences, in the units of the reward, as are `interval`, `error`, `spread`, `detectable`.
        interval: bootstrap over prompts, bias-corrected and accelerated (Efron 1987, JASA 82, 171-185). Simulated at
            95 % on discrete rewards it covers 91 % with 16 prompts, 93 % with 64, 95 % with 256.
        error: standard error of the mean.
        spread: standard deviation of the differences.
        p_flip: that the mean is this far from 0 if each difference could as well have had the other sign.
        p_wilcoxon: signed ranks; of the same, less swayed by a few large differences. Zeros are left out.
        ties: prompts at which both are equal.
        d_z: mean / spread (Cohen 1988).
        hedges_g: d_z without its bias in small samples.
        rank_biserial: the share of rank sums for the first less that for the second, from -1 to 1 (Kerby 2014).
        detectable: the difference that so many prompts with this spread show with 80 % power at 5 %.
    """

    prompts: int
    mean: float
    interval: Interval
    error: float
    spread: float
    p_flip: float
    p_wilcoxon: float
    ties: int
    d_z: float
    hedges_g: float
    rank_biserial: float
    detectable: float


def paired(
    first: Any, second: Any, prompts: Any = None, *, level: float = 0.95, resamples: int = 9999, seed: int = 0
) -> Paired:
    """Compare rewards of two checkpoints. Two that are equal at every prompt have p = 1 and an interval of [0, 0].

    Args:
        first, second: rewards of responses to the same prompts, row by row: [n].
        prompts: which prompt each row is of, [n]; without it each is its own. Rows of one prompt are averaged first,
            so that a prompt counts once, however many responses it has: it is prompts that are sampled.
        level: of the interval.
        resamples: of the bootstrap, and of the signs where there are too many to try them all.

    Raises:
        ValueError: unequal lengths, what is no finite number, fewer than two prompts, or a difference that is the same
            at every prompt and not 0, as of no two sets of responses.
    """
    a, b = aligned(first, second, "rewards")
    differences = apart(a, b) if prompts is None else per_prompt(apart(a, b), prompts)
    several(len(differences))
    if constant(differences):
        return _equal(differences)
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    return Paired(
        prompts=len(differences),
        mean=mean,
        interval=bca(differences, level=level, resamples=resamples, seed=seed),
        error=spread / math.sqrt(len(differences)),
        spread=spread,
        p_flip=sign_flip(differences, resamples=resamples, seed=seed),
        p_wilcoxon=float(stats.wilcoxon(differences).pvalue),
        ties=int((differences == 0).sum()),
        d_z=mean / spread,
        hedges_g=mean / spread * hedges_correction(len(differences) - 1),
        rank_biserial=rank_biserial(differences),
        detectable=detectable(spread, len(differences)),
    )


def _equal(differences: np.ndarray) -> Paired:
    if differences.any():
        raise ValueError(
            f"the first differs from the second by {differences[0]:g} at all of {len(differences)} prompts: rewards of "
            "sampled responses do not, so give one reward for each response, and no mean in its place"
        )
    count, nothing = len(differences), Interval(0.0, 0.0)
    return Paired(count, 0.0, nothing, 0.0, 0.0, 1.0, 1.0, count, 0.0, 0.0, 0.0, 0.0)


def per_prompt(values: Any, prompts: Any) -> np.ndarray:
    """The mean of each prompt's values, in the order of the sorted prompts: [n], [n] -> [prompts].

    Raises:
        ValueError: not as many prompts as values, or what is no finite number.
    """
    values, prompts = numbers(values, "values"), np.asarray(prompts)
    if prompts.shape != values.shape:
        raise ValueError(f"{len(values)} values and prompts of shape {prompts.shape}: say of each value which prompt's")
    _, which = np.unique(prompts, return_inverse=True)
    return np.bincount(which, weights=values) / np.bincount(which)


def bca(differences: np.ndarray, *, level: float = 0.95, resamples: int = 9999, seed: int = 0) -> Interval:
    """Bias-corrected and accelerated bootstrap interval of the mean of [n] values that are not all the same."""
    bootstrapped = stats.bootstrap(
        (differences,),
        np.mean,
        confidence_level=level,
        n_resamples=resamples,
        batch=max(1, CELLS // len(differences)),
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(bootstrapped.low), float(bootstrapped.high))


def sign_flip(differences: np.ndarray, *, resamples: int = 9999, seed: int = 0) -> float:
    """How often a mean is as far from 0 with random signs, on both sides, these signs counted among them: [n] -> p.

    All 2^n signs are tried where these are no more than `resamples`: the p-value is exact then.
    """
    permuted = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=resamples,
        batch=max(1, CELLS // len(differences)),
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(permuted.pvalue)


def hedges_correction(df: int) -> float:
    """What makes mean / spread unbiased, Gamma(df / 2) / (sqrt(df / 2) Gamma((df - 1) / 2)); 0 for a single one.

    Hedges 1981, Journal of Educational Statistics 6, 107-128; about 1 - 3 / (4 df - 1).
    """
    return float(np.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / math.sqrt(df / 2)) if df > 1 else 0.0


def rank_biserial(differences: np.ndarray) -> float:
    """(T+ - T-) / (T+ + T-) of the Wilcoxon rank sums, zeros left out: [n] -> from -1 to 1, 0 if all are zero.

    Kerby 2014, Comprehensive Psychology 3, 11.IT.3.1.
    """
    unequal = differences[differences != 0]
    ranks = stats.rankdata(np.abs(unequal))
    return float(np.sign(unequal) @ ranks / ranks.sum()) if len(unequal) else 0.0


@dataclass(frozen=True)
class McNemar:
    """Two accuracies on the same rows.

    Args:
        first, second: the accuracies.
        only_first, only_second: rows that one had right and the other wrong; the rest say nothing.
        p: that they are shared out so unevenly by fair coins. 1 where there are none.
    """

    first: float
    second: float
    only_first: int
    only_second: int
    p: float


def mcnemar(first: Any, second: Any) -> McNemar:
    """The exact test of two accuracies (McNemar 1947, Psychometrika 12, 153-157): a binomial on rows that disagree.

    Rows must be independent: for several of one prompt use `paired` with `prompts`.

    Args:
        first, second: right (1, True) or wrong (0, False) on each row: [n].

    Raises:
        ValueError: unequal lengths, no rows, or a value that is neither.
    """
    a, b = aligned(first, second, "accuracies")
    if not len(a):
        raise ValueError("accuracies: no rows are given")
    if not np.isin(np.concatenate([a, b]), (0.0, 1.0)).all():
        raise ValueError(
            "accuracies: each row is right (1) or wrong (0); a tie counts as neither, leave it out of both"
        )
    only_first, only_second = int((a > b).sum()), int((b > a).sum())
    return McNemar(float(a.mean()), float(b.mean()), only_first, only_second, sign_test(only_first, only_second))


def sign_test(wins: int, losses: int) -> float:
    """How probable it is that fair coins fall so unevenly: the exact two-sided p-value, ties left out.

    Returns:
        p; 1 where there is nothing to count.

    Raises:
        ValueError: a count below 0.
    """
    if min(wins, losses) < 0:
        raise ValueError(f"wins={wins}, losses={losses}: counts are 0 or more")
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values for a whole family of tests, in the order given: by chance at most 5 % of families have one below .05.

        p'_(i) = max over j <= i of min(1, (m - j + 1) p_(j))

    Holm 1979, Scandinavian Journal of Statistics 6, 65-70. Tests may depend on each other in any way.

    Raises:
        ValueError: what is no probability.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values: {list(p_values)} are not all from 0 to 1")
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(p) for p in corrected]


def holm_named(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """`holm` of a family whose tests have names."""
    return dict(zip(p_values, holm(list(p_values.values())), strict=True))

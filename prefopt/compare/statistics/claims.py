"""What a comparison may be said to show, and the variance of a mean difference that goes with each claim.

The difference of two methods with seed s and prompt p is taken as

    d[s, p] = mu + a_s + b_p + e_sp

a_s: how much luckier one method was than the other with this seed; b_p: how much better it is at this prompt, with any
seed; e_sp: all else, the sampling of responses above all. Seeds and prompts are crossed, each seed meets every prompt,
and a mean over both has three variances, by what would be sampled afresh if the experiment were made again:

    CHECKPOINTS   new prompts, the same checkpoints      var b / P + var e / (S P)
    SEEDS         new seeds, the same prompts            var a / S + var e / (S P)
    METHODS       new seeds and new prompts              var a / S + var b / P + var e / (S P)

That a t test over seeds leaves out var b / P is Clark's language-as-fixed-effect fallacy (1973, J. Verbal Learning and
Verbal Behavior 12, 335-359) with seeds for his subjects and prompts for his words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

LEAST_P = 1e-100
"""A p-value below is given as this."""


class Interval(NamedTuple):
    """From low to high, at a level said where it is made."""

    low: float
    high: float


class Claim(StrEnum):
    """What a comparison is about; its value reads on in a sentence."""

    CHECKPOINTS = "these checkpoints, on prompts like these"
    SEEDS = "the methods with other seeds, on these very prompts"
    METHODS = "the methods with other seeds, on prompts like these"


@dataclass(frozen=True)
class Part:
    """The estimated variance of a mean that one source gives it, [...], and its degrees of freedom, [...] or one."""

    variance: np.ndarray | float
    df: np.ndarray | float


def margin(parts: Sequence[Part], level: float) -> np.ndarray:
    """Half the width of the interval at `level`: [...].

        h^2 = sum_i t_i^2 v_i,    t_i the two-sided critical value of Student's t with part i's degrees of freedom

    Banerjee 1960, Sankhya 22, 357-358: for independent v_i it never covers too seldom. With one part it is Student's
    interval. Satterthwaite's mixed degrees of freedom are too bold here: with 5 seeds they reject 5.8 % at 5 % and
    1.1 % at .5 %, where a Holm correction goes; this rejects 4.0 % and .3 % (benchmarks/compare_aa.py).
    """
    return _half(parts, 1 - level)


def _half(parts: Sequence[Part], p: float) -> np.ndarray:
    return np.sqrt(sum(stats.t.isf(p / 2, part.df) ** 2 * np.asarray(part.variance) for part in parts))


def p_value(mean: float, parts: Sequence[Part]) -> float:
    """The p at which the interval of level 1 - p just reaches 0. Parts of one number each."""
    variance = sum(float(part.variance) for part in parts)
    if variance == 0:
        return 1.0 if mean == 0 else LEAST_P
    dfs = [float(part.df) for part in parts if part.variance > 0]
    # With the most degrees of freedom for all parts the p-value were too low, with the least too high.
    low, high = (max(LEAST_P, 2 * float(stats.t.sf(abs(mean) / variance**0.5, df))) for df in (max(dfs), min(dfs)))

    def beyond(log: float) -> float:
        return float(_half(parts, np.exp(log))) - abs(mean)

    if low == high or beyond(np.log(low)) <= 0:
        return low
    return high if beyond(np.log(high)) >= 0 else float(np.exp(optimize.brentq(beyond, np.log(low), np.log(high))))


def parts(tables: Sequence[np.ndarray], claim: Claim, *, shared_prompts: bool = True) -> list[Part]:
    """Variances of a mean over seeds and prompts, or of the difference of two such means.

    Args:
        tables: one of paired differences, or one for each of two methods that had seeds of their own: [..., S, P].
        shared_prompts: all seeds were measured on the same prompts, in the same order. If each had its own, the seed
            means vary as the prompts do, and a test on them speaks for new prompts as it is.

    Raises:
        ValueError: a claim about these prompts, and each seed had others.
    """
    if not shared_prompts and claim is Claim.SEEDS:
        raise ValueError(
            "each seed had its own prompts: there are no prompts that stay the same, claim METHODS instead"
        )
    if claim is Claim.CHECKPOINTS:
        return [_of_prompts(tables) if shared_prompts else _of_cells(tables)]
    if claim is Claim.SEEDS or not shared_prompts:
        return [_of_seeds(tables)]
    # What seeds and prompts both make vary, var e / (S P), is in the seed means already.
    prompts, common = _of_prompts(tables), sum(_residual(table) for table in tables)
    return [_of_seeds(tables), Part(np.maximum(prompts.variance - common, 0.0), prompts.df)]


def _of_seeds(tables: Sequence[np.ndarray]) -> Part:
    """Student's variance of a mean of seed means; Welch's of a difference, with his degrees of freedom."""
    return _welch([(table.mean(-1).var(-1, ddof=1) / table.shape[-2], table.shape[-2] - 1) for table in tables])


def _of_prompts(tables: Sequence[np.ndarray]) -> Part:
    means = tables[0].mean(-2) - (tables[1].mean(-2) if len(tables) > 1 else 0.0)
    prompts = means.shape[-1]
    return Part(means.var(-1, ddof=1) / prompts, prompts - 1)


def _of_cells(tables: Sequence[np.ndarray]) -> Part:
    """Where each seed had its own prompts: of the mean of independent means, one for each seed."""
    each = [(table.var(-1, ddof=1) / (table.shape[-1] * table.shape[-2] ** 2), table.shape[-1] - 1) for table in tables]
    return _welch([(variance[..., seed], df) for variance, df in each for seed in range(variance.shape[-1])])


def _welch(lots: Sequence[tuple[np.ndarray, int]]) -> Part:
    """Of a sum of independent means: v = sum v_i, df = v^2 / sum (v_i^2 / df_i). Welch 1947, Biometrika 34, 28-35."""
    variance = np.asarray(sum(each for each, _ in lots))
    weighed = np.asarray(sum(each**2 / df for each, df in lots))
    smallest = float(min(df for _, df in lots))
    known = weighed > 0
    return Part(variance, np.where(known, variance**2 / np.where(known, weighed, 1.0), smallest))


def _residual(table: np.ndarray) -> np.ndarray:
    """var e / (S P), by the two-way analysis of variance: [..., S, P] -> [...]"""
    seeds, prompts = table.shape[-2:]
    left = table - table.mean(-1, keepdims=True) - table.mean(-2, keepdims=True) + table.mean((-1, -2), keepdims=True)
    return (left**2).sum((-1, -2)) / ((seeds - 1) * (prompts - 1)) / (seeds * prompts)


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a_s, b_p and e_sp of d[s, p] = mu + a_s + b_p + e_sp, in the units of the reward."""

    seed: float
    prompt: float
    residual: float

    @property
    def variances(self) -> tuple[float, float, float]:
        """The variances of seeds, of prompts, and of what is left."""
        return self.seed**2, self.prompt**2, self.residual**2

    @classmethod
    def of(cls, differences: np.ndarray) -> Spread:
        """Estimated by the two-way analysis of variance, 0 where that comes out below: [S, P].

            var e = MS_e        var b = var(prompt means) - MS_e / S        var a = var(seed means) - MS_e / P

        Raises:
            ValueError: fewer than two seeds or prompts.
        """
        seeds, prompts = differences.shape
        if min(seeds, prompts) < 2:
            raise ValueError(f"differences of {seeds} seeds and {prompts} prompts: two or more of both have a spread")
        residual = float(_residual(differences)) * seeds * prompts
        of_seeds = differences.mean(1).var(ddof=1) - residual / prompts
        of_prompts = differences.mean(0).var(ddof=1) - residual / seeds
        return cls(*(float(max(each, 0.0)) ** 0.5 for each in (of_seeds, of_prompts, residual)))

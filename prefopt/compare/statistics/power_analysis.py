"""Power: how large a difference would have been found, and how many seeds or prompts it takes to find one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count

import numpy as np
from scipy import optimize, stats

from .claims import Claim, Part, Spread, margin

MOST = 10**7
"""Prompts or seeds beyond which nobody goes: a search for how many are needed ends there."""


def power(difference: float, spread: float, n: int, *, alpha: float = 0.05) -> float:
    """Of the two-sided paired t test: how often n differences with this mean and standard deviation come out clear.

        P(|T| > t_crit),    T ~ noncentral t with n - 1 degrees of freedom and noncentrality sqrt(n) difference / spread

    Cohen 1988, Statistical power analysis, chapter 2. With its prompts as n it is of two checkpoints.

    Raises:
        ValueError: no spread, fewer than two values, or an alpha that is no probability.
    """
    _check(spread, alpha)
    if n < 2:
        raise ValueError(f"n={n}: a spread needs two or more values")
    far, shift = stats.t.isf(alpha / 2, n - 1), math.sqrt(n) * abs(difference) / spread
    # scipy's noncentral t ends as NaN or 0 far out in its tail, where the other side adds nothing anyway.
    other = stats.nct.cdf(-far, n - 1, shift) if shift < 5 else 0.0
    return float(1.0 if shift > far + 30 else stats.nct.sf(far, n - 1, shift) + other)


def detectable(spread: float, n: int, *, wanted: float = 0.8, alpha: float = 0.05) -> float:
    """The difference that n values of this standard deviation show with the `wanted` power.

    Args:
        spread: the standard deviation of the n differences, in the units of the reward; so is what is returned.
        wanted: the share of comparisons in which it is to be found.

    Raises:
        ValueError: no spread, fewer than two values, or an alpha or a power that is no probability.
    """
    _check_wanted(wanted, alpha)
    power(spread, spread, n, alpha=alpha)  # the checks at its door
    most = 20 * (stats.t.isf(alpha / 2, n - 1) + 10)
    return spread * float(optimize.brentq(lambda d: power(d, 1.0, n, alpha=alpha) - wanted, 0.0, most))


def needed(difference: float, spread: float, *, wanted: float = 0.8, alpha: float = 0.05) -> int:
    """How many values of this standard deviation show the difference with the `wanted` power at least.

    Args:
        difference, spread: in the same units; the spread is that of single differences.

    Raises:
        ValueError: no difference, no spread, or more values than anybody has.
    """
    _check_wanted(wanted, alpha)
    _check(spread, alpha)
    _check_difference(difference)
    few, many = 2, 4
    if power(difference, spread, few, alpha=alpha) >= wanted:
        return few
    while power(difference, spread, many, alpha=alpha) < wanted:
        few, many = many, 2 * many
        if few > MOST:
            raise ValueError(
                f"a difference of {difference:g} with a spread of {spread:g} needs more than {MOST} values"
            )
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if power(difference, spread, middle, alpha=alpha) >= wanted else (middle, many)
    return many


@dataclass(frozen=True)
class Design:
    """A comparison of two methods, paired by seed, that may be made.

    Args:
        spread: how much the differences vary, by source.
        claim: what is to be said.
    """

    spread: Spread
    seeds: int
    prompts: int
    claim: Claim = Claim.METHODS
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if self.prompts < 2 or self.seeds < (1 if self.claim is Claim.CHECKPOINTS else 2):
            raise ValueError(f"{self.seeds} seeds and {self.prompts} prompts: two or more of what varies are needed")
        _check(self.error, self.alpha)

    def power(self, difference: float) -> float:
        """How often a true difference comes out clear, by the test that `compare_methods` makes for this claim.

            E over v_S of P(|N(difference, V_S + V_P)| > sqrt(t_S^2 v_S + t_P^2 V_P)),    v_S ~ V_S chi^2 / df

        The prompts' variance is taken as known: they are many, or the figure is a little too high.
        """
        steady, varying = self._parts()
        quantiles = (np.arange(4000) + 0.5) / 4000
        sampled = [Part(part.variance * stats.chi2.ppf(quantiles, part.df) / part.df, part.df) for part in varying]
        far, error = margin([*sampled, *steady], 1 - self.alpha), self.error
        return float(np.mean(stats.norm.sf(far, difference, error) + stats.norm.cdf(-far, difference, error)))

    @property
    def error(self) -> float:
        """Standard error of the mean difference, of what the claim is about."""
        return math.sqrt(sum(float(part.variance) for parts in self._parts() for part in parts))

    def detectable(self, *, wanted: float = 0.8) -> float:
        """The difference that is seen with the `wanted` power."""
        _check_wanted(wanted, self.alpha)
        most = self.error * 20 * (stats.t.isf(self.alpha / 2, max(1, self.seeds - 1)) + 10)
        return float(optimize.brentq(lambda difference: self.power(difference) - wanted, 0.0, most))

    def _parts(self) -> tuple[list[Part], list[Part]]:
        """What is taken as known, and what a test has to estimate from few values."""
        seed, prompt, residual = self.spread.variances
        common = residual / (self.seeds * self.prompts)
        of_prompts, of_seeds = prompt / self.prompts, seed / self.seeds + common
        if self.claim is Claim.CHECKPOINTS:
            return [], [Part(of_prompts + common, self.prompts - 1)]
        varying = [Part(of_seeds, self.seeds - 1)]
        return ([Part(of_prompts, self.prompts - 1)] if self.claim is Claim.METHODS else []), varying


def seeds_needed(difference: float, spread: Spread, prompts: int, *, wanted: float = 0.8, alpha: float = 0.05) -> int:
    """How many seeds show that one method is better by `difference`, on prompts like these, with the `wanted` power.

    Args:
        difference: in the units of the reward, as the spread.
        spread: over seeds, over prompts and of single responses.
        prompts: how many held-out prompts each seed is measured on.

    Raises:
        ValueError: no number of seeds can: with infinitely many, these prompts alone leave too much doubt.
    """
    _check_wanted(wanted, alpha)
    _check_difference(difference)
    limit = spread.prompt / math.sqrt(prompts)
    if limit > 0 and abs(difference) / limit < stats.norm.isf(alpha / 2) + stats.norm.ppf(wanted) + 0.01:
        raise ValueError(
            f"a difference of {difference:g} is too small for {prompts} prompts, however many the seeds: more prompts"
        )
    plans = (Design(spread, seeds, prompts, alpha=alpha) for seeds in count(2))
    return next(plan.seeds for plan in plans if plan.power(difference) >= wanted)


def _check(spread: float, alpha: float) -> None:
    if not (spread > 0 and math.isfinite(spread)):
        raise ValueError(f"spread={spread}: a standard deviation above 0 is needed")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha}: a probability between 0 and 1 is needed")


def _check_wanted(wanted: float, alpha: float) -> None:
    if not alpha < wanted < 1:
        raise ValueError(f"wanted={wanted}: a power is above alpha={alpha} and below 1")


def _check_difference(difference: float) -> None:
    if not (difference and math.isfinite(difference)):
        raise ValueError(f"difference={difference}: no number of values shows it")

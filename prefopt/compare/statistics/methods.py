"""Is one METHOD better than another? The seed is the unit; fewer than five say something of checkpoints only.

    gains = {"dpo": dpo, "ppo": ppo}             # [seeds, prompts] each: reward with a seed at a held-out prompt
    who_beats_whom(gains).verdict("dpo", "ppo")

A seed trains its own SFT policy and reward model, all methods start from these, and all are judged on the same prompts:
a difference of two methods is taken within seed and prompt, and what both owe to a good SFT or an easy prompt cancels
(`paired_seeds`; gains over SFT and plain rewards give the same differences). Where each method had seeds of its own, it
is Welch's test instead.

The decision is Student's, on seed means, with the doubt added that the choice of prompts leaves: see `claims`. The
bootstrap is there as a description. Not the signs of seeds: with 5 of them the least two-sided p is 2 / 32 = .06.

What no test on five seeds can see is a collapse that comes with one seed in five: .8^5 = 33 % of comparisons have none,
and then call a method better that is not, on average (benchmarks/compare_aa.py --luck collapse).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import Any

import numpy as np

from .checks import apart, constant, tables
from .claims import Claim, Interval, Part, margin, p_value, parts
from .paired_tests import holm_named
from .resampling import percentiles, resampled_means

FEWEST_SEEDS = 5
"""For a claim about methods. The t test is right with 2, but Student's quantile then is 12.7, and it sees nothing:
with 5 it is 2.8 (benchmarks/compare_aa.py has the power of each)."""


class Verdict(StrEnum):
    """What is said of a pair of methods."""

    BEATS = "beats"
    LOSES = "loses to"
    UNDECIDED = "undecided"
    DIFFER = "these checkpoints differ"
    ALIKE = "these checkpoints are not told apart"

    @property
    def reversed(self) -> Verdict:
        """The same, said of the second method."""
        return {Verdict.BEATS: Verdict.LOSES, Verdict.LOSES: Verdict.BEATS}.get(self, self)


@dataclass(frozen=True)
class Difference:
    """How much more one method has than another.

    Args:
        mean: over seeds and prompts, in the units of the gains.
        interval: that goes with `p`, at `level`, for what `claim` says.
        p: two-sided, of this pair alone.
        bootstrap: percentiles of resampled seeds and prompts: a description, too narrow with few seeds; None where
            there are too few.
        by_seed: the mean difference with each seed; of the methods' own seeds there is none.
    """

    mean: float
    interval: Interval
    p: float
    claim: Claim
    level: float
    bootstrap: Interval | None
    by_seed: tuple[float, ...]

    def verdict(self, p: float | None = None) -> Verdict:
        """At 1 - level, by this p-value where it was corrected for others."""
        clear = (self.p if p is None else p) < 1 - self.level
        if self.claim is Claim.CHECKPOINTS:
            return Verdict.DIFFER if clear else Verdict.ALIKE
        return Verdict.UNDECIDED if not clear else Verdict.BEATS if self.mean > 0 else Verdict.LOSES


def compare_methods(
    first: Any,
    second: Any,
    *,
    claim: Claim = Claim.METHODS,
    paired_seeds: bool = True,
    shared_prompts: bool = True,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """The first less the second. With fewer than five seeds of either the claim is CHECKPOINTS, whatever was asked.

    Args:
        first, second: [seeds, prompts]; the same prompts in the same order within a seed.
        paired_seeds: row i of both started from the same SFT policy and reward model. False: seeds are independent.
        shared_prompts: the same prompts for all seeds.

    Raises:
        ValueError: shapes that do not match, what is no finite number, a claim that the design does not allow, or
            seeds that gave the very same.
    """
    both = tables({"first": first, "second": second}, paired_seeds=paired_seeds).values()
    given = list(both)
    used = [apart(*given)] if paired_seeds else given
    few = min(len(table) for table in used) < FEWEST_SEEDS
    claim = Claim.CHECKPOINTS if few else claim
    mean = float(given[0].mean() - given[1].mean())
    if paired_seeds and not used[0].any():  # one result under two names, as of a switch without an effect: a finding
        nothing = Interval(0.0, 0.0)
        return Difference(0.0, nothing, 1.0, claim, level, None if few else nothing, (0.0,) * len(given[0]))
    sources = parts(used, claim, shared_prompts=shared_prompts)
    _check_varying(used, sources, claim)
    half = float(margin(sources, level))
    described = None if few else _described(used, shared_prompts, level, resamples, seed)
    by_seed = tuple(used[0].mean(1).tolist()) if paired_seeds else ()
    interval = Interval(mean - half, mean + half)
    return Difference(mean, interval, p_value(mean, sources), claim, level, described, by_seed)


def _check_varying(used: Sequence[np.ndarray], sources: Sequence[Part], claim: Claim) -> None:
    means = [table.mean(1) for table in used]
    if claim is not Claim.CHECKPOINTS and all(constant(each) for each in means):
        raise ValueError(
            f"all {len(means[0])} seeds gave the same mean, {means[0][0]:g}: were they trained with different seeds?"
        )
    if sum(float(source.variance) for source in sources) == 0:
        raise ValueError("the methods differ by the same at every prompt: give the rewards of single prompts, no means")


def _described(used: Sequence[np.ndarray], shared: bool, level: float, resamples: int, seed: int) -> Interval:
    means = [resampled_means(t, crossed=shared, resamples=resamples, seed=(seed, n)) for n, t in enumerate(used)]
    return percentiles(means[0] if len(means) == 1 else means[0] - means[1], level)


@dataclass(frozen=True)
class Matrix:
    """Every method against every other.

    Args:
        differences: of each pair, once, the earlier name first. Their intervals are of single pairs.
        p: Holm-corrected over all pairs.
    """

    methods: tuple[str, ...]
    differences: Mapping[tuple[str, str], Difference]
    p: Mapping[tuple[str, str], float]

    def verdict(self, first: str, second: str) -> Verdict:
        """What the first does to the second, if it holds for all pairs at once.

        Raises:
            KeyError: names of no two methods here.
        """
        if (first, second) in self.differences:
            return self.differences[first, second].verdict(self.p[first, second])
        if (second, first) in self.differences:
            return self.verdict(second, first).reversed
        raise KeyError(f"{first!r} and {second!r}: give two different ones of {', '.join(self.methods)}")

    def beats(self, method: str) -> tuple[str, ...]:
        """The methods that this one beats."""
        others = (other for other in self.methods if other != method)
        return tuple(other for other in others if self.verdict(method, other) is Verdict.BEATS)

    def rows(self) -> list[list[str]]:
        """A row for each method, its name first, then what it does to each; "-" to itself."""
        return [[a, *("-" if a == b else str(self.verdict(a, b)) for b in self.methods)] for a in self.methods]


def who_beats_whom(gains: Mapping[str, Any], **options: Any) -> Matrix:
    """Compare all methods in pairs, and correct for there being so many.

    Args:
        gains: [seeds, prompts] of each method.
        options: of `compare_methods`.

    Raises:
        ValueError: fewer than two methods, or what `compare_methods` refuses, with the pair's names.
    """
    given = tables(gains, paired_seeds=options.get("paired_seeds", True))
    differences = {}
    for one, other in combinations(given, 2):
        try:
            differences[one, other] = compare_methods(given[one], given[other], **options)
        except ValueError as error:
            raise ValueError(f"{one!r} and {other!r}: {error}") from error
    p = holm_named({pair: difference.p for pair, difference in differences.items()})
    return Matrix(tuple(given), differences, p)

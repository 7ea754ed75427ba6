"""Compares every method with every other by one metric, and on the plane of reward and KL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ...statistics import (
    FEWEST_SEEDS,
    Claim,
    Design,
    Difference,
    Interval,
    Spread,
    apart,
    compare_methods,
    constant,
    detectable,
    holm_named,
    sign_test,
)
from ..findings import FrontierPoint, Pairing, Value
from .tables import Table


@dataclass(frozen=True)
class Compared:
    """Two methods on the seeds that both have.

    Args:
        differences: the first less the second, [seeds, prompts].
    """

    differences: np.ndarray
    difference: Difference

    @property
    def identical(self) -> bool:
        return not self.differences.any()

    @property
    def value(self) -> Value:
        """Without bounds where a difference does not vary."""
        sure = self.difference.interval.low == self.difference.interval.high and not self.identical
        return Value(self.difference.mean) if sure else Value(self.difference.mean, *self.difference.interval)

    @property
    def effect(self) -> float | None:
        """d_z over prompts, seeds averaged; None where nothing varies."""
        means = self.differences.mean(0)
        return None if constant(means) else float(means.mean() / means.std(ddof=1))

    @property
    def detectable(self) -> float | None:
        """What such seeds and prompts show in 80 of 100 repetitions, by the test of this pair alone."""
        seeds, prompts = self.differences.shape
        if constant(self.differences) or constant(self.differences.mean(0)):
            return None
        alpha = 1 - self.difference.level
        if seeds == 1:
            return detectable(float(self.differences.std(ddof=1)), prompts, alpha=alpha)
        return Design(Spread.of(self.differences), seeds, prompts, self.difference.claim, alpha).detectable()


def compared(first: Table, second: Table, level: float) -> Compared | None:
    """As `compare_methods` does it; None without a seed that both have, or with one prompt.

    Two cases it refuses are told as far as they go. If all seeds gave the same, as where a policy without seeds of its
    own answers every time alike, they are one pair of checkpoints. If that differs by the same at every prompt, its p
    is the sign test's.
    """
    seeds = first.shared(second)
    if not seeds or first.values.shape[1] < 2:
        return None
    one, other = first.of(seeds), second.of(seeds)
    differences = apart(one, other)
    alike = len(seeds) < FEWEST_SEEDS or constant(differences.mean(1))
    claim = Claim.CHECKPOINTS if alike else Claim.METHODS
    if alike and constant(differences.mean(0)) and differences.any():
        return Compared(differences, _by_signs(differences, level))
    # Resampling only describes, and the report does not show it.
    return Compared(differences, compare_methods(one, other, claim=claim, level=level, resamples=1))


def _by_signs(differences: np.ndarray, level: float) -> Difference:
    mean, signs = float(differences.mean()), np.sign(differences.mean(0))
    p = sign_test(int((signs > 0).sum()), int((signs < 0).sum()))
    by_seed = tuple(differences.mean(1).tolist())
    return Difference(mean, Interval(mean, mean), p, Claim.CHECKPOINTS, level, None, by_seed)


def all_compared(tables: Mapping[str, Table], level: float) -> dict[tuple[str, str], Compared]:
    """Every two, the earlier first. Each pair has the seeds that these two share, whatever the others lack."""
    by_pair = {pair: compared(tables[pair[0]], tables[pair[1]], level) for pair in combinations(tables, 2)}
    return {pair: each for pair, each in by_pair.items() if each is not None}


def pairings(pairs: Mapping[tuple[str, str], Compared]) -> list[Pairing]:
    """With p-values corrected for all these pairs by Holm."""
    p = holm_named({pair: each.difference.p for pair, each in pairs.items()})
    return [
        Pairing(*pair, str(each.difference.verdict(p[pair])), each.value, p[pair], each.effect, each.detectable)
        for pair, each in pairs.items()
    ]


def frontier_points(
    rewards: Mapping[str, Table],
    kls: Mapping[str, Table],
    values: Mapping[str, tuple[Value, Value]],
    level: float,
) -> list[FrontierPoint]:
    """The methods that have both, from the least KL up; as `compare.frontier`, two by two on the seeds they share.

    That takes one set of seeds for all, and no KL that is the same of every response, as best-of-n's bound is.

    Args:
        values: reward and KL of each method, as the headline table has them.
    """
    points = []
    for name in values:
        over = {other: _over(rewards, kls, other, name, level) for other in values if other != name}
        beyond = tuple(other for other, (means, _) in over.items() if means)
        clearly = tuple(other for other, (_, clear) in over.items() if clear)
        points.append(FrontierPoint(name, *values[name], beyond, clearly))
    return sorted(points, key=lambda point: (point.kl.mean, -point.reward.mean))


def _over(
    rewards: Mapping[str, Table], kls: Mapping[str, Table], one: str, other: str, level: float
) -> tuple[bool, bool]:
    """Does the one have more reward for no more KL: by the means, and by the intervals too?"""
    seeds = [seed for seed in rewards[one].shared(rewards[other]) if seed in kls[one].shared(kls[other])]
    if not seeds:
        return False, False
    gained = float(rewards[one].of(seeds).mean() - rewards[other].of(seeds).mean())
    spent = float(kls[one].of(seeds).mean() - kls[other].of(seeds).mean())
    if not (gained >= 0 >= spent and (gained > 0 or spent < 0)):
        return False, False
    both = [compared(each[one], each[other], level) for each in (rewards, kls)]
    reward, kl = (each.difference.interval if each else None for each in both)
    return True, reward is not None and kl is not None and reward.low >= 0 >= kl.high

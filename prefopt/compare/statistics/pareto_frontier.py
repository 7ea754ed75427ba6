"""Reward against KL: which methods give more reward for no more KL?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .checks import tables
from .methods import Difference, compare_methods


@dataclass(frozen=True)
class Point:
    """A method on the plane of reward and KL (Gao et al., arXiv:2210.10760, Figure 1).

    Args:
        reward, kl: means over seeds and prompts.
        dominated_by: methods that have at least its reward at at most its KL, one of them strictly, by the means.
        clearly_by: those of them for which the intervals say so too: the reward's lies at 0 or above, the KL's at 0 or
            below. Both must, so that no correction for there being two is needed.
    """

    name: str
    reward: float
    kl: float
    dominated_by: tuple[str, ...]
    clearly_by: tuple[str, ...]

    @property
    def on_frontier(self) -> bool:
        """Whether no other method has at least its reward at at most its KL."""
        return not self.dominated_by


def frontier(rewards: Mapping[str, Any], kls: Mapping[str, Any], **options: Any) -> list[Point]:
    """The methods from the least KL up.

    Args:
        rewards, kls: [seeds, prompts] of each method; of the KL log pi - log pi_ref of a response that pi generated,
            whose mean it is.
        options: of `compare_methods`: what the intervals claim, with few seeds about checkpoints only.

    Raises:
        ValueError: not the same methods in both, or tables that do not match.
    """
    if set(rewards) != set(kls):
        raise ValueError(f"rewards of {sorted(rewards)}, KL of {sorted(kls)}: give both of every method")
    paired_seeds = options.get("paired_seeds", True)
    given = [tables(each, paired_seeds=paired_seeds) for each in (rewards, {name: kls[name] for name in rewards})]
    reward, kl = given
    points = [_point(name, reward, kl, options) for name in rewards]
    return sorted(points, key=lambda point: (point.kl, -point.reward))


def _point(name: str, rewards: dict[str, Any], kls: dict[str, Any], options: dict[str, Any]) -> Point:
    dominating = {}
    for other in rewards:
        gained, spent = rewards[other].mean() - rewards[name].mean(), kls[other].mean() - kls[name].mean()
        if gained >= 0 >= spent and (gained > 0 or spent < 0):
            dominating[other] = [compare_methods(each[other], each[name], **options) for each in (rewards, kls)]
    clearly = tuple(other for other, apart in dominating.items() if _clear(*apart))
    return Point(name, float(rewards[name].mean()), float(kls[name].mean()), tuple(dominating), clearly)


def _clear(reward: Difference, kl: Difference) -> bool:
    return reward.interval.low >= 0 >= kl.interval.high

"""What is known of a run, as plain numbers: the series that it logged, and figures of its start and its end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

QUARTER = 0.25
"""Of what was logged, that which `first` and `late` are medians of."""

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A run, finished or not.

    Args:
        logs: what was logged, in its order, as in `trainer_state.json`.
        facts: what is known beside it. `objective`: its name and hyperparameters; `settings`: arguments of training;
            `rows`: what is seen of the rows (`row_figures`); `encoding`: how many of them encoding did what to;
            `first`: metrics of the very first step, before any update; `moved`: of each model the share of its weights
            that are others now; `dtype` of the trained weights; `broken`: names of weights that are not finite;
            `stopped`: the error that ended the run; `collapse`: what PPO's own alarm says.
        rollouts: of PPO, each rollout's metrics, and `score_spread`, the standard deviation of its scores.
        iterations: the reports of a run of iterations.
    """

    logs: Sequence[Figures] = ()
    facts: Figures = field(default_factory=dict)
    rollouts: Sequence[Figures] = ()
    iterations: Sequence[Figures] = ()

    # ---- figures ---------------------------------------------------------------------------------------------------

    def fact(self, *path: str) -> Any:
        """A figure by the names that lead to it, None if it is not known."""
        value: Any = self.facts
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def number(self, *path: str) -> float:
        """A figure as a number, NaN if it is not known."""
        value = self.fact(*path)
        return float(value) if isinstance(value, int | float) else math.nan

    # ---- series ----------------------------------------------------------------------------------------------------

    def series(self, name: str) -> list[float]:
        """What was logged under a name, those values that are numbers."""
        return numbers(self.logs, name)

    def steps_of(self, name: str) -> list[int]:
        """The steps after which `series` has its values."""
        return [int(log.get("step", 0)) for log in self.logs if _is_number(log.get(name))]

    @property
    def steps(self) -> int:
        """Optimizer steps, as far as they are logged."""
        return max((int(log.get("step", 0)) for log in self.logs), default=0)

    def first(self, name: str) -> float:
        """A metric before anything was learnt: of the very first step where that is known, else the first logged."""
        known = self.number("first", name)
        return known if math.isfinite(known) else next(iter(self.series(name)), math.nan)

    def late(self, name: str) -> float:
        """The median of the last quarter of what was logged, NaN if there is none."""
        return late(self.series(name))

    # ---- rollouts --------------------------------------------------------------------------------------------------

    def learning(self, name: str) -> list[float]:
        """A metric of the rollouts from which the policy learns."""
        return numbers([each for each in self.rollouts if each.get("critic_alone") != 1], name)


def numbers(entries: Sequence[Figures], name: str) -> list[float]:
    """The finite values under a name."""
    return [float(entry[name]) for entry in entries if _is_number(entry.get(name))]


def early(values: Sequence[float]) -> float:
    """The median of the first quarter, NaN of nothing."""
    return median(values[: quarter(values)]) if values else math.nan


def late(values: Sequence[float]) -> float:
    """The median of the last quarter, NaN of nothing."""
    return median(values[-quarter(values) :]) if values else math.nan


def quarter(values: Sequence[float]) -> int:
    """How many values a quarter is, one at least."""
    return max(1, round(QUARTER * len(values)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)

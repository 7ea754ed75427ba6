"""Wins, ties and losses of one checkpoint against another, by a judge or a reward."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, special, stats

from .checks import aligned, constant, several
from .claims import Interval
from .paired_tests import sign_test

WIN, TIE, LOSS = 1.0, 0.5, 0.0
PRIOR = 2.5
"""Standard deviation of the normal prior on the weight of length, Gelman et al. 2008's weakly informative scale
(Annals of Applied Statistics 2, 1360-1383): it keeps the weight finite where the longer response always wins."""


@dataclass(frozen=True)
class Wins:
    """Of the first against the second, one count for each prompt."""

    wins: int
    ties: int
    losses: int

    def __post_init__(self) -> None:
        if min(self.wins, self.ties, self.losses) < 0 or not self.count:
            raise ValueError(f"{self}: counts are 0 or more, and not all 0")

    @property
    def count(self) -> int:
        """How many prompts were judged."""
        return self.wins + self.ties + self.losses

    @property
    def rate(self) -> float:
        """Ties count one half."""
        return (self.wins + self.ties / 2) / self.count

    @property
    def p(self) -> float:
        """Of the sign test, exactly, ties left out."""
        return sign_test(self.wins, self.losses)

    def interval(self, level: float = 0.95) -> Interval:
        """Of the rate, with ties a half: Student's over prompts, kept between 0 and 1; Wilson's if all prompts agree.

        Wilson's then is of `count` prompts, so that 20 wins in 20 are no certainty.
        """
        outcomes = np.repeat([WIN, TIE, LOSS], [self.wins, self.ties, self.losses])
        if constant(outcomes):
            wilson = stats.binomtest(round(self.rate * self.count), self.count).proportion_ci(level, method="wilson")
            return Interval(float(wilson.low), float(wilson.high))
        half = stats.sem(outcomes) * stats.t.isf((1 - level) / 2, self.count - 1)
        return Interval(max(0.0, self.rate - float(half)), min(1.0, self.rate + float(half)))


def wins_of(outcomes: Any) -> Wins:
    """Count outcomes for the first, one for each prompt: 1 a win, 1/2 a tie, 0 a loss: [n].

    Raises:
        ValueError: none, or something else among them.
    """
    given = _outcomes(outcomes, "outcomes")
    return Wins(*(int((given == each).sum()) for each in (WIN, TIE, LOSS)))


def wins_by_reward(first: Any, second: Any, *, tolerance: float = 0.0) -> Wins:
    """Count by rewards of responses to the same prompts.

    Args:
        first, second: [n] each, in the same order of prompts.
        tolerance: rewards that are no more apart are a tie; in their units.

    Raises:
        ValueError: unequal lengths, or what is no number.
    """
    a, b = aligned(first, second, "rewards")
    return wins_of(np.where(np.abs(a - b) <= tolerance, TIE, np.where(a > b, WIN, LOSS)))


@dataclass(frozen=True)
class BothOrders:
    """The outcomes of a judge who saw every pair twice, in either order.

    Args:
        wins: a prompt is won if it is won in both orders, and a tie if these do not agree (Zheng et al.,
            arXiv:2306.05685, section 3.4).
        outcomes: the same of each prompt: [n].
        flip_rate: the share of prompts at which the judge took one side in one order and the other in the other.
        first_preferred: the share of these at which it took what stood first; .5 is no leaning, NaN if there are none.
        agreement: the share of prompts judged the same in both orders.
    """

    wins: Wins
    outcomes: np.ndarray
    flip_rate: float
    first_preferred: float
    agreement: float


def both_orders(shown_first: Any, shown_second: Any) -> BothOrders:
    """Put the two orders together.

    Args:
        shown_first: outcomes for our side (1 win, 1/2 tie, 0 loss) where its response stood first: [n].
        shown_second: the same, where it stood second: [n].

    Raises:
        ValueError: unequal lengths, none, or other values.
    """
    ahead, behind = aligned(shown_first, shown_second, "outcomes")
    for each in (ahead, behind):
        _outcomes(each, "outcomes")
    agreed, flipped = ahead == behind, np.abs(ahead - behind) == WIN - LOSS
    outcomes = np.where(agreed, ahead, TIE)
    leaning = float((ahead > behind)[flipped].mean()) if flipped.any() else math.nan
    return BothOrders(wins_of(outcomes), outcomes, float(flipped.mean()), leaning, float(agreed.mean()))


def _outcomes(values: Any, what: str) -> np.ndarray:
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1 or not len(given):
        raise ValueError(f"{what}: an array of shape {given.shape}; one outcome for each prompt is needed")
    if not np.isin(given, (WIN, TIE, LOSS)).all():
        raise ValueError(f"{what}: each is 1 (a win), 1/2 (a tie) or 0 (a loss) of the first")
    return given


@dataclass(frozen=True)
class LengthControlled:
    """A win rate with and without what length explains.

    Args:
        raw: wins with ties a half.
        rate: what it were had both responses the same length, as far as the model holds.
        interval: of that rate.
        length_weight: of tanh(length difference / its standard deviation), in log-odds; above 0 longer responses win.
        extrapolated: one side was longer at every prompt: the rate at equal length was never seen.
    """

    raw: float
    rate: float
    interval: Interval
    length_weight: float
    extrapolated: bool


def length_controlled(outcomes: Any, longer_by: Any, *, level: float = 0.95) -> LengthControlled:
    """AlpacaEval 2's win rate (Dubois et al., arXiv:2404.04475), less its term for a prompt's difficulty.

        P(win) = sigmoid(theta + phi tanh(length difference / std(length difference)))        rate = sigmoid(theta)

    The paper's third term, of how hard a prompt is, takes the outcomes of many models. Fitted by maximum likelihood, a
    tie as half a win and half a loss, with phi ~ N(0, 2.5^2). The interval is theta's, by the curvature at the fit: a
    little wide with many ties, and very wide where length decides all. It takes away what a JUDGE makes of length, and
    what longer answers are truly worth as well.

    Args:
        outcomes: 1 a win of the first, 1/2 a tie, 0 a loss: [n].
        longer_by: length of its response less that of the other: [n], tokens or characters.

    Raises:
        ValueError: unequal lengths, fewer than two prompts, other outcomes, or outcomes that are all a win or all a
            loss, of which no model can be fitted.
    """
    won, apart = aligned(_outcomes(outcomes, "outcomes"), longer_by, "outcomes and lengths")
    several(len(won))
    if won.min() == WIN or won.max() == LOSS:
        raise ValueError("the first won, or lost, at every prompt: length cannot explain what does not vary")
    scale = apart.std() if not constant(apart) else max(np.abs(apart).max(), 1.0)
    columns = np.stack([np.ones(len(won)), np.tanh(apart / scale)], axis=1)
    weights, error = _fitted(columns, won)
    half = stats.norm.isf((1 - level) / 2) * error
    low, rate, high = special.expit([weights[0] - half, weights[0], weights[0] + half])
    extrapolated = bool((apart > 0).all() or (apart < 0).all())
    return LengthControlled(
        float(won.mean()), float(rate), Interval(float(low), float(high)), float(weights[1]), extrapolated
    )


def _fitted(columns: np.ndarray, won: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights of the columns and the standard error of the first: [n, 2], [n] -> [2], number"""
    penalty = np.diag([0.0, 1 / PRIOR**2])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = columns @ weights
        value = np.sum(np.logaddexp(0, logits) - won * logits) + weights @ penalty @ weights / 2
        return float(value), columns.T @ (special.expit(logits) - won) + penalty @ weights

    weights = optimize.minimize(loss, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-8}).x
    guessed = special.expit(columns @ weights)
    curvature = columns.T @ (columns * (guessed * (1 - guessed))[:, None]) + penalty
    return weights, float(np.sqrt(np.linalg.inv(curvature)[0, 0]))

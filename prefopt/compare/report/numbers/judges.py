"""Computes win rates against the baseline, and how each judge behaved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, logit

from ...statistics import LOSS, PRIOR, WIN, both_orders, holm_named, length_controlled, sign_test, wins_of
from ..findings import Judge, Value, WinRate
from .means import Means
from .tables import Data, Grid, Table


@dataclass(frozen=True)
class Behaviour:
    """Of a judge, all methods together.

    Args:
        failed: method -> answers that were no use, and all that were asked for.
        both: comparisons judged in both orders.
        flipped: those at which it took one side in one order, the other in the other.
        first: those of `flipped` at which it took what stood first.
    """

    failed: Mapping[str, tuple[int, int]]
    both: int = 0
    flipped: int = 0
    first: int = 0


def judges_of(data: Data, means: Means) -> list[Judge]:
    """In the order given; a method is left out of a judge that failed at all of its responses."""
    return [_judge(data, name, kind, means) for name, kind in data.experiment.judges.items()]


def behaviour(grid: Grid) -> Behaviour:
    failed, orders = {}, [np.empty((2, 0))]
    for name in grid.frames:
        outcomes = [frame["outcome"].isna() for frame in grid.frames[name].values()]
        if outcomes:
            failed[name] = sum(int(each.sum()) for each in outcomes), sum(len(each) for each in outcomes)
            orders.append(_orders(grid, name))
    first, second = np.concatenate(orders, axis=1)
    if not len(first):
        return Behaviour(failed)
    both = both_orders(first, second)
    flipped = round(both.flip_rate * len(first))
    return Behaviour(failed, len(first), flipped, round(both.first_preferred * flipped) if flipped else 0)


def _orders(grid: Grid, name: str) -> np.ndarray:
    """Outcomes with the method's response shown first and second, where both are known: [2, n]"""
    frames = grid.frames[name].values()
    both = np.concatenate([frame[["shown_first", "shown_second"]].to_numpy(dtype=np.float64) for frame in frames])
    return both[~np.isnan(both).any(1)].T


def _judge(data: Data, name: str, kind: str, means: Means) -> Judge:
    grid = data.judgements[name]
    rates = [rate for method in data.names if (rate := _rate(grid, method, means)) is not None]
    p = holm_named({rate.method: rate.p for rate in rates if rate.p is not None})
    return Judge(name, kind, [replace(rate, p=p.get(rate.method)) for rate in rates])


def _rate(grid: Grid, method: str, means: Means) -> WinRate | None:
    table = grid.table(method, "outcome", holes=True)
    if table is None:
        return None
    outcomes = table.means
    wins = wins_of(outcomes[~np.isnan(outcomes)])
    asked = sum(len(frame) for frame in grid.frames[method].values())
    orders = _orders(grid, method)
    flips = both_orders(*orders) if orders.size else None
    return WinRate(
        method,
        wins.wins,
        wins.ties,
        wins.losses,
        means.share(outcomes),
        _p_value(outcomes),
        _controlled(grid.table(method, "longer_by", holes=True), table, means),
        asked - wins.count,
        flips.flip_rate if flips else None,
        None if flips is None or math.isnan(flips.first_preferred) else flips.first_preferred,
    )


def _p_value(outcomes: np.ndarray) -> float | None:
    """The sign test over prompts, each of them once, won or lost by its mean over seeds: [seeds, prompts] -> p.

    Seeds answer the same prompts, so that all seeds' outcomes would be no independent coins.
    """
    judged = outcomes[:, ~np.isnan(outcomes).all(0)]
    ahead = np.nanmean(judged, axis=0) - 0.5
    return sign_test(int((ahead > 0).sum()), int((ahead < 0).sum())) if len(ahead) > 1 else None


def _controlled(longer: Table | None, judged: Table, means: Means) -> Value | None:
    """`compare.length_controlled` of all seeds' prompts, with an interval by seeds and prompts; None where none can be.

    That is where nothing was won, or nothing lost, or one side was longer at every prompt. The interval is that of the
    log-odds at equal length, by each comparison's influence on it, n H^-1 x (y - p) (Huber 1967, Proc. 5th Berkeley
    Symposium 1, 221-233): seeds answer the same prompts, and the curvature alone would count them as new ones.
    """
    outcomes = judged.means
    judged_cells = ~np.isnan(outcomes)
    won = outcomes[judged_cells]
    if longer is None or len(won) < 2 or won.min() == WIN or won.max() == LOSS:
        return None
    apart = longer.of(judged.seeds)[judged_cells]
    fit = length_controlled(won, apart, level=means.level)
    if fit.extrapolated:
        return None
    influence = np.full(outcomes.shape, np.nan)
    influence[judged_cells] = _influence(won, apart, float(logit(fit.rate)), fit.length_weight)
    half = means.half(influence)
    bounds = (fit.rate, *expit(logit(fit.rate) + np.array([-half, half]))) if half is not None else (fit.rate,)
    return Value(*map(float, bounds))


def _influence(won: np.ndarray, apart: np.ndarray, theta: float, phi: float) -> np.ndarray:
    """On theta, of each comparison of the fit in `compare.wins`: [n], [n] -> [n]"""
    columns = np.stack([np.ones(len(won)), np.tanh(apart / (apart.std() or 1.0))], axis=1)
    guessed = expit(columns @ np.array([theta, phi]))
    curvature = columns.T @ (columns * (guessed * (1 - guessed))[:, None]) + np.diag([0.0, 1 / PRIOR**2])
    return len(won) * np.linalg.solve(curvature, columns.T * (won - guessed))[0]

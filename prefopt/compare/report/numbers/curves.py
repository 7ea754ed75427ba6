"""Policies during their training, and which of them earned score at the price of gold. Draws nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import stats

from ..findings import Moment
from .pairings import compared
from .tables import Data


class Overdone(NamedTuple):
    """How much more score, and how much less gold."""

    score_rise: float
    gold_fall: float


def moments(data: Data) -> list[Moment]:
    """By method, seed and look. What is no finite number, as an error of one prompt, is left out."""
    points = []
    for name, by_seed in data.cells.items():
        for seed, cell in by_seed.items():
            own = [Moment(**{**each, "method": name, "seed": seed}) for each in cell.curve]
            points += [_finite(moment) for moment in sorted(own, key=lambda moment: moment.look)]
    return points


def _finite(moment: Moment) -> Moment:
    def kept(values: Mapping[str, float]) -> dict[str, float]:
        return {name: float(value) for name, value in values.items() if math.isfinite(value)}

    return replace(moment, values=kept(moment.values), errors=kept(moment.errors))


def over_optimised(data: Data, curves: Sequence[Moment], level: float) -> dict[str, Overdone]:
    """Methods whose score rose while gold fell (Gao et al., arXiv:2210.10760), both of them clearly.

    Along a curve: from the moment with the highest gold to the last one gold falls, and the score rises, by more than z
    standard errors of the difference, sqrt(e_best^2 + e_last^2). z is the normal quantile of `level`, two-sided, by
    Bonferroni for the m - 1 moments that the best is sought among: 2.7 of nine moments at 95 %. (Two would call 11 % of
    curves without any trend fallen, of nine moments; this does 2 %.) Moments are means over seeds, of the looks that
    all seeds of the method have, and a mean's error is taken to be the mean of the seeds' errors: they share prompts.

    At its end, if no curve shows it: more score and less gold than the SFT model it started from, if that is the
    baseline, with intervals at `level` that both leave out 0.
    """
    by_method = {}
    for name in data.names:
        overdone = _along([each for each in curves if each.method == name], level) or _at_the_end(data, name, level)
        if overdone:
            by_method[name] = overdone
    return by_method


def _along(curve: Sequence[Moment], level: float) -> Overdone | None:
    """Of one method."""
    seeds = {moment.seed for moment in curve}
    by_look: dict[int, list[Moment]] = {}
    for moment in curve:
        if all({"score", "gold"} <= set(each) for each in (moment.values, moment.errors)):
            by_look.setdefault(moment.look, []).append(moment)
    whole = [each for _, each in sorted(by_look.items()) if len(each) == len(seeds)]
    if len(whole) < 2:
        return None
    score, gold = (np.array([_mean(each, name) for each in whole]) for name in ("score", "gold"))  # [moments, 2]
    best, last = int(gold[:, 0].argmax()), len(whole) - 1
    rise, fall = score[last, 0] - score[best, 0], gold[best, 0] - gold[last, 0]
    z = stats.norm.isf((1 - level) / 2 / last)
    clear = all(far > z * np.hypot(*each[[best, last], 1]) for far, each in ((rise, score), (fall, gold)))
    return Overdone(float(rise), float(fall)) if clear else None


def _mean(at: Sequence[Moment], name: str) -> tuple[float, float]:
    """Over seeds: value and error."""
    return float(np.mean([each.values[name] for each in at])), float(np.mean([each.errors[name] for each in at]))


def _at_the_end(data: Data, name: str, level: float) -> Overdone | None:
    baseline = data.experiment.baseline
    starts = {cell.method for cell in data.cells.get(baseline, {}).values()}
    tables = [data.responses.table(each, column) for column in ("score", "gold") for each in (name, baseline)]
    ended, started, gold, gold_before = tables
    if name == baseline or starts != {"sft"} or not (ended and started and gold and gold_before):
        return None
    score, known = compared(ended, started, level), compared(gold, gold_before, level)
    if score is None or known is None or score.difference.interval.low <= 0 or known.difference.interval.high >= 0:
        return None
    return Overdone(score.difference.mean, -known.difference.mean)

"""How far annotators agree beyond chance: Gwet's AC1 and AC2, and Krippendorff's alpha.

AC2 is written here: irrCAC, the library that has it, pins scipy 1.12 and pandas 2. The tests compare with its values.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from math import comb
from typing import Literal

import numpy as np
from scipy import stats

FEWEST = 2
"""Pairs that two annotators judged, from which an agreement has an interval."""


@dataclass(frozen=True)
class Agreement:
    """How far annotators agree on what several of them judged.

    Args:
        units: how many pairs two or more of them judged.
        ac: Gwet's coefficient; with weights it is called AC2, else AC1.
        low, high: its 95 % interval over pairs.
        alpha: Krippendorff's; None where it is not defined, or the extra `prefopt[labels]` is not installed.
    """

    units: int
    ac: float
    low: float
    high: float
    alpha: float | None


def agreement(ratings: np.ndarray, categories: tuple[int, ...], *, ordered: bool) -> Agreement | None:
    """The agreement of annotators; None where fewer than two pairs have two judgments.

    Args:
        ratings: [pairs, annotators], NaN where one has not judged.
        categories: every number that there could be, in their order.
        ordered: whether near numbers count as agreeing in part: by Gwet's ordinal weights and by Krippendorff's
            ordinal differences.
    """
    ratings = ratings[~np.isnan(ratings).all(axis=1)]
    units = int(((~np.isnan(ratings)).sum(axis=1) >= 2).sum())
    if units < FEWEST:
        return None
    weights = ordinal_weights(len(categories)) if ordered else np.eye(len(categories))
    return Agreement(units, *gwet(ratings, categories, weights), _alpha(ratings, categories, ordered))


def ordinal_weights(count: int) -> np.ndarray:
    """How far two of `count` ordered categories agree, [count, count]: by how many pairs lie between them."""
    between = [[comb(abs(i - j) + 1, 2) for j in range(count)] for i in range(count)]
    return 1 - np.array(between) / comb(count, 2)


def gwet(
    ratings: np.ndarray, categories: tuple[int, ...], weights: np.ndarray, *, level: float = 0.95
) -> tuple[float, float, float]:
    """Gwet's coefficient and its interval over units.

    Gwet (2008), British Journal of Mathematical and Statistical Psychology 61, 29-48; with weights and missing
    ratings as in his Handbook of Inter-Rater Reliability (4th ed.).

    Args:
        ratings: [units, raters], NaN where missing; every unit has one or more.
        weights: [categories, categories], 1 for agreement and 0 for none.
    """
    counts = np.stack([(ratings == category).sum(axis=1) for category in categories], axis=1).astype(float)
    raters = counts.sum(axis=1)
    several = raters >= 2
    units, size = counts.shape
    shares = (counts / raters[:, None]).mean(axis=0)
    chance_weight = weights.sum() / (size * (size - 1))
    expected = chance_weight * float((shares * (1 - shares)).sum())
    agreeing = (counts * (counts @ weights - 1)).sum(axis=1)  # the weights are symmetric
    observed = np.where(several, agreeing / np.maximum(raters * (raters - 1), 1), 0.0)
    value = (float(observed[several].mean()) - expected) / (1 - expected)
    # The coefficient is near the mean of these over units, with what each adds to the chance agreement.
    single = units / several.sum() * (observed - expected * several) / (1 - expected)
    by_chance = chance_weight * (counts @ (1 - shares)) / raters
    linear = single - 2 * (1 - value) * (by_chance - expected) / (1 - expected)
    error = np.sqrt(((linear - value) ** 2).sum() / (units * (units - 1)))
    reach = float(stats.t.ppf((1 + level) / 2, units - 1) * error)
    return value, max(-1.0, value - reach), min(1.0, value + reach)


def _alpha(ratings: np.ndarray, categories: tuple[int, ...], ordered: bool) -> float | None:
    """Krippendorff's; where all say the same there is nothing that could disagree, and it is not defined."""
    several = ratings[(~np.isnan(ratings)).sum(axis=1) >= 2]
    if find_spec("krippendorff") is None or len(np.unique(several[~np.isnan(several)])) < 2:
        return None
    import krippendorff

    level: Literal["ordinal", "nominal"] = "ordinal" if ordered else "nominal"
    alpha = krippendorff.alpha(several.T, value_domain=list(categories), level_of_measurement=level)
    return float(alpha)

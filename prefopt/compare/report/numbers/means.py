"""Computes means over seeds and prompts with their intervals, by what the report claims."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ...statistics import Claim, Part, constant, margin, parts
from ..findings import Value


@dataclass(frozen=True)
class Means:
    """How sure a mean of [seeds, rows] is, at `level`, for what `claim` says. NaN is a value that is not there.

    A mean has no interval where there is one row, or one seed and the claim is about others: nothing shows then how
    much they differ.
    """

    claim: Claim
    level: float

    def of(self, table: np.ndarray) -> Value:
        mean, half = float(np.nanmean(table)), self.half(table)
        return Value(mean) if half is None else Value(mean, mean - half, mean + half)

    def share(self, table: np.ndarray) -> Value:
        """Of values from 0 to 1.

        Where all are 0, or all 1, it is Wilson's interval of as many rows, whatever the seeds. Where all are the same
        in between there is none: they were never right or wrong, as pairs that a reference ranks by itself.
        """
        share = self.of(table)
        if share.low is None or share.high is None:
            return share
        low, high = share.low, share.high
        if constant(table[~np.isnan(table)]):
            if 0 < share.mean < 1:
                return Value(share.mean)
            rows = int((~np.isnan(table)).any(0).sum())
            wilson = stats.binomtest(round(share.mean * rows), rows).proportion_ci(self.level, method="wilson")
            low, high = min(float(wilson.low), share.mean), max(float(wilson.high), share.mean)
        return Value(share.mean, max(0.0, low), min(1.0, high))

    def half(self, table: np.ndarray) -> float | None:
        """Half the width of the interval; of a table of influences, that of the estimate that they are of."""
        known = ~np.isnan(table)
        table = table[known.any(1)][:, known.any(0)]
        if table.shape[1] < 2 or (self.claim is not Claim.CHECKPOINTS and len(table) < 2):
            return None
        return float(
            margin(_with_holes(table, self.claim) if np.isnan(table).any() else parts([table], self.claim), self.level)
        )

    def ratio(self, above: np.ndarray, below: np.ndarray) -> Value:
        """exp of the sum of the one over the sum of the other, as of negative log-likelihoods and tokens: a perplexity.

        The interval is that of the logarithm, by the influence of each cell, (a - r b) / mean(b) (Cochran 1977,
        Sampling Techniques, chapter 6).
        """
        ratio = float(above.sum() / below.sum())
        half = self.half((above - ratio * below) / below.mean())
        return Value(math.exp(ratio)) if half is None else Value(*(math.exp(ratio + h) for h in (0.0, -half, half)))


def _with_holes(table: np.ndarray, claim: Claim) -> list[Part]:
    """As `claims.parts`, of seed means and prompt means over what is there.

    What both make vary is not taken out of the prompts' part, as without all values it cannot be told: a little wide.
    """
    seeds, rows = table.shape
    of_rows = Part(float(np.nanmean(table, axis=0).var(ddof=1)) / rows, rows - 1)
    if claim is Claim.CHECKPOINTS:
        return [of_rows]
    return [Part(float(np.nanmean(table, axis=1).var(ddof=1)) / seeds, seeds - 1), of_rows]

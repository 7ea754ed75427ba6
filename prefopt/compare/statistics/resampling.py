"""Resamples seeds and prompts with replacement: how a mean over both might have come out. Describes, decides nothing.

With few seeds the intervals are too narrow: 5 seeds sampled from 5 vary by 4/5 of the variance that they have, and a
percentile knows no Student's t. Of equally good methods, 5 seeds of each, the hierarchical one calls 11 % different at
5 %. The crossed one calls 5 % so, by luck: 15 % where seeds vary much (--seed_sd .5 --prompt_sd 0 --residual_sd 1), or
.6 % where neither varies (--seed_sd 0 --prompt_sd 0). `claims.margin` decides; benchmarks/compare_aa.py measures all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .claims import Interval

CELLS = 2**22
"""Weights held at once."""


def resampled_means(
    table: np.ndarray, *, crossed: bool = False, resamples: int = 2000, seed: int | Sequence[int] = 0
) -> np.ndarray:
    """Means of `resamples` resampled tables: [..., S, P] -> [..., resamples].

    Args:
        crossed: sample seeds, and prompts for all of them alike, which is right where seeds share prompts (the
            pigeonhole bootstrap of Owen 2007, Annals of Applied Statistics 1, 386-411, that rather overstates the
            variance). Otherwise prompts are sampled anew within each sampled seed (the hierarchical bootstrap).
        seed: the same weights for every table of the same shape.
    """
    seeds, prompts = table.shape[-2:]
    flat = table.reshape(*table.shape[:-2], seeds * prompts)
    weights = _weights(seeds, prompts, crossed, resamples, np.random.default_rng(seed))
    return np.concatenate([flat @ each.T for each in weights], axis=-1)


def _weights(seeds: int, prompts: int, crossed: bool, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How much each cell counts in each of some resamples, 1 in all: [n, S * P] at a time."""
    most = max(1, CELLS // (seeds * prompts))
    for start in range(0, resamples, most):
        count = min(most, resamples - start)
        yield (_crossed if crossed else _nested)(seeds, prompts, count, rng) / (seeds * prompts)


def _nested(seeds: int, prompts: int, count: int, rng: np.random.Generator) -> np.ndarray:
    in_seed = rng.integers(seeds, size=(count, seeds, 1)) * prompts
    cells = in_seed + rng.integers(prompts, size=(count, seeds, prompts))
    cells = cells + np.arange(count)[:, None, None] * seeds * prompts
    return np.bincount(cells.ravel(), minlength=count * seeds * prompts).reshape(count, -1)


def _crossed(seeds: int, prompts: int, count: int, rng: np.random.Generator) -> np.ndarray:
    times = [rng.multinomial(n, np.full(n, 1 / n), size=count) for n in (seeds, prompts)]
    return (times[0][:, :, None] * times[1][:, None, :]).reshape(count, -1)


def percentiles(means: np.ndarray, level: float) -> Interval:
    """The middle `level` of resampled means: [resamples] -> Interval"""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))

"""Single responses: how rewards and lengths are distributed, and the samples to be read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ...statistics import constant
from ..findings import Answer, Histogram, LengthPoints, Sample
from .tables import Data

DISTRIBUTED = ("score", "gold", "length")
SHOWN = ("score", "gold", "length", "kl")
BINS = 30
TAIL = 0.005
"""Of all responses, at either end: they are counted in the bins at the ends, or one outlier would hide all others."""
POINTS = 300
SAMPLES = 200


def histograms(data: Data) -> list[Histogram]:
    """All seeds' responses; what lies beyond the ends is in the first and the last bin."""
    distributions = []
    for metric in DISTRIBUTED:
        values = {name: table.values.ravel() for name, table in data.known(metric).items()}
        if values:
            edges = edges_of(np.concatenate(list(values.values())))
            distributions.append(
                Histogram(metric, edges.tolist(), {name: _shares(each, edges) for name, each in values.items()})
            )
    return distributions


def edges_of(values: np.ndarray) -> np.ndarray:
    """Of about 30 bins over all but the tails. Bins of whole numbers hold equally many of them: no comb."""
    low, high = np.quantile(values, [TAIL, 1 - TAIL])
    if (values == np.round(values)).all():
        low, high = math.floor(low) - 0.5, math.ceil(high) + 0.5
        width = math.ceil((high - low) / BINS)
        return low + width * np.arange(math.ceil((high - low) / width) + 1)
    return np.linspace(low, high, BINS + 1) if low < high else np.array([low - 0.5, low + 0.5])


def _shares(values: np.ndarray, edges: np.ndarray) -> list[float]:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return [float(share) for share in counts / counts.sum()]


def length_points(data: Data, primary: str) -> list[LengthPoints]:
    """Of every method with this reward."""
    points = []
    for name, rewards in data.known(primary).items():
        lengths = data.responses.table(name, "length")
        assert lengths is not None, "a length is a whole number and always known"
        kept = [lengths.seeds.index(seed) for seed in rewards.seeds]
        length, reward = lengths.values[kept].ravel(), rewards.values.ravel()
        correlation = None if constant(length) or constant(reward) else float(stats.spearmanr(length, reward).statistic)
        taken = evenly(len(length), POINTS)
        points.append(LengthPoints(name, length[taken].tolist(), reward[taken].tolist(), correlation))
    return points


def evenly(count: int, most: int) -> np.ndarray:
    """At most so many of the numbers below `count`, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def samples(data: Data) -> list[Sample]:
    """The first response of every method, with the first seed that all have, or else that most have."""
    frames = data.responses.frames
    counts = {seed: sum(seed in by_seed for by_seed in frames.values()) for seed in data.experiment.seeds}
    if not any(counts.values()):
        return []
    seed = max(counts, key=lambda seed: counts[seed])  # the first of those with as many
    firsts = {name: by_seed[seed] for name, by_seed in frames.items() if seed in by_seed}
    prompts = list(data.experiment.prompts)
    return [_sample(data, seed, firsts, prompts[row], int(row)) for row in evenly(len(prompts), SAMPLES)]


def _sample(data: Data, seed: int, frames: Mapping[str, pd.DataFrame], key: str, row: int) -> Sample:
    answers = []
    for name, frame in frames.items():
        first = frame.iloc[row * (len(frame) // len(data.responses.rows))]
        values = {metric: float(first[metric]) for metric in SHOWN if not math.isnan(first[metric])}
        outcome = _outcome(data, name, seed, row)
        answers.append(Answer(name, str(first["response"]), values, bool(first["finished"]), outcome))
    turns: list[Mapping[str, Any]] = [dict(turn) for turn in data.experiment.prompts[key]]
    return Sample(key, turns, seed, answers)


def _outcome(data: Data, name: str, seed: int, row: int) -> float | None:
    """By the first judge."""
    judge = next(iter(data.experiment.judges), None)
    frame = data.judgements[judge].frames.get(name, {}).get(seed) if judge is not None else None
    outcome = math.nan if frame is None else float(frame["outcome"].iloc[row])
    return None if math.isnan(outcome) else outcome

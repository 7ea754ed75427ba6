"""Computes the headline table's lines: every metric of a method, and its cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from prefopt.candidates.diversity import distinct

from ...records import Cell
from ..findings import Cost, Judge, Method, Value
from ..metrics import METRICS
from .means import Means
from .pairings import Compared
from .tables import Data

MEANS = ("gold", "score", "kl", "kl_k3", "length")
SHARES = ("unfinished", "degenerate")
OF_PAIRS = {"margin": "margin", "logps_chosen": "chosen_logp"}
COSTS = {field.name for field in fields(Cost)}


def method_of(data: Data, name: str, means: Means, gain: Value | None, judges: Sequence[Judge]) -> Method:
    """
    Raises:
        ValueError: its cells are of different methods, or a cell's cost has other fields than `findings.Cost`.
    """
    cells = list(data.cells[name].values())
    kinds = sorted({cell.method for cell in cells})
    if len(kinds) > 1:
        raise ValueError(f"{name}: its cells are of the methods {', '.join(kinds)}: one name is one method")
    metrics = {**_of_responses(data, name, means), **_held_out(data, name, means)}
    if gain is not None:
        metrics["gain"] = gain
    rates = [rate.rate for judge in judges[:1] for rate in judge.rates if rate.method == name]
    if rates:
        metrics["win_rate"] = rates[0]
    ordered = {metric: metrics[metric] for metric in METRICS if metric in metrics}
    trials = max(cell.trials for cell in cells)
    return Method(name, kinds[0], _settings(cells), list(data.cells[name]), ordered, _cost(name, cells), trials)


def gain_of(data: Data, name: str, primary: str, pairs: Mapping[tuple[str, str], Compared]) -> Value | None:
    """Over the baseline on the seeds that both have; of one prompt, no interval. None of the baseline itself."""
    baseline = data.experiment.baseline
    for pair, sign in (((name, baseline), 1), ((baseline, name), -1)):
        if pair in pairs:
            value = pairs[pair].value
            bounds = [] if value.low is None or value.high is None else sorted([sign * value.low, sign * value.high])
            return Value(sign * value.mean + 0.0, *bounds)  # no -0.0
    tables = data.known(primary)
    if name == baseline or not {name, baseline} <= set(tables):
        return None
    seeds = tables[name].shared(tables[baseline])
    return Value(float((tables[name].of(seeds) - tables[baseline].of(seeds)).mean())) if seeds else None


def _of_responses(data: Data, name: str, means: Means) -> dict[str, Value]:
    metrics = {}
    for columns, value in ((MEANS, means.of), (SHARES, means.share)):
        for column in columns:
            table = data.responses.table(name, column)
            if table is not None:
                metrics[column] = value(table.means)
    frames = list(data.responses.frames.get(name, {}).values())
    if frames:
        metrics["distinct_2"] = Value(float(np.mean([distinct(_firsts(frame), 2) for frame in frames])))
    perplexity = _perplexity(data, name, means)
    return {**metrics, **({"perplexity": perplexity} if perplexity else {})}


def _firsts(frame: Any) -> list[str]:
    """The first response to each prompt. Their distinct-2 is no mean over prompts, and so has no interval."""
    return list(frame["response"][frame["k"] == 0])


def _perplexity(data: Data, name: str, means: Means) -> Value | None:
    """exp of all negative log-likelihood over all tokens: long responses count for what they are, empty ones nothing.

    A mean of the responses' perplexities would be ruled by the shortest and oddest.
    """
    nll, lengths = data.responses.table(name, "nll"), data.responses.table(name, "length")
    if nll is None or lengths is None:
        return None
    tokens = lengths.of(nll.seeds)
    return means.ratio(nll.means, tokens) if tokens.any() else None


def _held_out(data: Data, name: str, means: Means) -> dict[str, Value]:
    metrics = {}
    for metric, grid in (("accuracy", data.pairs), ("choices", data.choices)):
        table = grid.table(name, "correct")
        if table is not None:
            metrics[metric] = means.share(table.means)
    for metric, column in OF_PAIRS.items():
        table = data.pairs.table(name, column)
        if table is not None:
            metrics[metric] = means.of(table.means)
    return metrics


def _settings(cells: Sequence[Cell]) -> dict[str, Any]:
    """One value of what all seeds have in common, a list of what a grid chose otherwise by seed."""
    names = dict.fromkeys(name for cell in cells for name in cell.settings)
    settings = {name: [cell.settings.get(name) for cell in cells] for name in names}
    return {
        name: values[0] if all(value == values[0] for value in values) else values for name, values in settings.items()
    }


def _cost(name: str, cells: Sequence[Cell]) -> Cost:
    for cell in cells:
        if strange := sorted(set(cell.cost) - COSTS):
            raise ValueError(f"{name} with seed {cell.seed}: its cost has {strange}, and there is {sorted(COSTS)}")
    memory = [cell.cost["peak_memory"] for cell in cells if cell.cost.get("peak_memory") is not None]
    flops, shared, tokens = (
        _by_name(cell.cost.get(field, {}) for cell in cells) for field in ("flops", "shared", "tokens")
    )
    seconds, cpu_seconds, steps = (
        float(np.mean([cell.cost.get(field, 0) for cell in cells])) for field in ("seconds", "cpu_seconds", "steps")
    )
    whole = {purpose: round(count) for purpose, count in tokens.items()}
    return Cost(flops, shared, whole, seconds, cpu_seconds, round(steps), max(map(int, memory)) if memory else None)


def _by_name(given: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean over cells of each; 0 where a cell has none."""
    cells = list(given)
    names = dict.fromkeys(name for cell in cells for name in cell)
    return {name: float(np.mean([cell.get(name, 0) for cell in cells])) for name in names}

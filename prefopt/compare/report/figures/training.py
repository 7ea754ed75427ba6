"""Plots policies during their training: learning curves, and reward over KL."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..findings import Findings, Moment, Value
from .axes import Unit, band, legend, line, panels, places, spread_out, square_root
from .style import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REWARDS = ("score", "gold")


@dataclass(frozen=True)
class Average:
    """Of the seeds of a method, of a look that all of them have.

    Args:
        moment: its mean share of the training and FLOPs.
        values: with one standard error to both sides: over seeds, or over prompts where there is one seed.
    """

    moment: Moment
    values: dict[str, Value]


def averages(moments: Sequence[Moment]) -> list[Average]:
    """Of one method, in the order of its looks."""
    seeds = {moment.seed for moment in moments}
    looks: dict[int, list[Moment]] = defaultdict(list)
    for moment in moments:
        looks[moment.look].append(moment)
    whole = [looks[look] for look in sorted(looks) if len(looks[look]) == len(seeds)]
    return [Average(_middle(at), {metric: _average(at, metric) for metric in _common(at)}) for at in whole]


def _middle(at: Sequence[Moment]) -> Moment:
    share, flops = (float(np.mean([getattr(moment, name) for moment in at])) for name in ("share", "flops"))
    return replace(at[0], share=share, flops=flops)


def _common(moments: Sequence[Moment]) -> list[str]:
    return [metric for metric in moments[0].values if all(metric in moment.values for moment in moments)]


def _average(moments: Sequence[Moment], metric: str) -> Value:
    values = [moment.values[metric] for moment in moments]
    mean = float(np.mean(values))
    alone = moments[0].errors.get(metric)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else alone
    return Value(mean) if error is None else Value(mean, mean - error, mean + error)


def by_method(findings: Findings) -> dict[str, list[Moment]]:
    found: dict[str, list[Moment]] = {}
    for moment in sorted(findings.curves, key=lambda moment: moment.look):
        found.setdefault(moment.method, []).append(moment)
    return {method.name: found[method.name] for method in findings.methods if method.name in found}


def by_seed(moments: Sequence[Moment]) -> list[list[Moment]]:
    found: dict[int, list[Moment]] = {}
    for moment in moments:
        found.setdefault(moment.seed, []).append(moment)
    return list(found.values())


def plot_curves(findings: Findings, look: Look) -> Figure | None:
    """Score above gold reward, against compute, or against the share of the training where no compute is known."""
    curves = by_method(findings)
    metrics = [metric for metric in REWARDS if any(metric in moment.values for moment in findings.curves)]
    if not metrics:
        return None
    figure = look.figure("curves", 1.0 + 2.3 * len(metrics))
    every = list(figure.subplots(len(metrics), 1, sharex=True, squeeze=False).flat)
    where, label = _against(findings, look)
    for metric, axes in zip(metrics, every, strict=True):
        for name, moments in curves.items():
            _curve(axes, moments, metric, where, look.styles[name])
        axes.set_ylabel(look.metric(metric))
    spread_out(every[-1], [where(moments[-1]) for moments in curves.values()])
    every[-1].set_xlabel(label)
    legend(figure, *_who(curves, look))
    return figure


def _against(findings: Findings, look: Look) -> tuple[Callable[[Moment], float], str]:
    """What stands on the x-axis: of a moment, and its name."""
    flops = [moment.flops for moment in findings.curves]
    if not any(flops):
        return lambda moment: moment.share, look.label("share")
    unit = Unit.of(flops)
    return lambda moment: moment.flops / unit.size, look.label("compute", unit=unit.name)


def _curve(axes: Axes, moments: Sequence[Moment], metric: str, where: Callable[[Moment], float], style: Any) -> None:
    """Each seed as a thin line, and where there are several, their mean as a thick one in its band."""
    seeds = by_seed([moment for moment in moments if metric in moment.values])
    if len(seeds) > 1:
        for seed in seeds:
            ys = [moment.values[metric] for moment in seed]
            axes.plot([where(moment) for moment in seed], ys, color=style.colour, alpha=0.3, linewidth=0.7)
    means = [each for each in averages(moments) if metric in each.values]
    xs, values = [where(each.moment) for each in means], [each.values[metric] for each in means]
    ys = [value.mean for value in values]
    axes.plot(xs, ys, color=style.colour, linestyle=style.line, linewidth=2)
    axes.plot(xs[-1:], ys[-1:], color=style.colour, marker=style.marker, markersize=7)
    band(axes, xs, values, style.colour)


def _who(curves: dict[str, list[Moment]], look: Look) -> tuple[list[Any], list[str]]:
    """The legend: methods, and what bands and thin lines are."""
    several = any(len({moment.seed for moment in moments}) > 1 for moments in curves.values())
    styles = [look.styles[name] for name in curves]
    handles = [line(color=each.colour, linestyle=each.line, marker=each.marker, linewidth=2) for each in styles]
    labels = [*map(look.name, curves)]
    if several or any(moment.errors for moments in curves.values() for moment in moments):
        handles.append(line(color=look.theme.quiet, alpha=0.35, linewidth=9))
        labels.append(look.label("mean of seeds" if several else "over prompts"))
    if several:
        handles.append(line(color=look.theme.quiet, linewidth=0.9))
        labels.append(look.label("one seed"))
    return handles, labels


def plot_overoptimisation(findings: Findings, look: Look) -> Figure | None:
    """Score and gold reward against KL (Gao et al., arXiv:2210.10760, Figure 1), a panel for each method.

    Score and gold reward have units of their own, so each is plotted as a share of the largest change that it has with
    any method.
    """
    every = {name: _changes(averages(moments)) for name, moments in by_method(findings).items()}
    paths = {name: path for name, path in every.items() if path}
    largest = {metric: _largest(paths, metric) for metric in REWARDS}
    if not any(largest.values()):
        return None
    figure, each = panels(look, "overoptimisation", list(paths), 1.9)
    for name, axes in each:
        _turn(axes, paths[name], largest, look)
        square_root(axes, (kl for path in paths.values() for kl, _ in path), places(len(paths))[1])
        axes.set_title(look.name(name))
    figure.supylabel(look.label("gain of largest"), fontsize="medium")
    legend(figure, *_rewards(largest, look), x=look.metric("kl"))
    return figure


def _changes(path: Sequence[Average]) -> list[tuple[float, dict[str, Value]]]:
    """KL, and score and gold reward less what they were at first, at each step: a way, not a function of the KL."""
    placed = [each for each in path if "kl" in each.values]
    if not placed:
        return []
    start = {metric: placed[0].values[metric].mean for metric in REWARDS if metric in placed[0].values}
    return [
        (each.values["kl"].mean, {metric: _less(each.values[metric], first) for metric, first in start.items()})
        for each in placed
    ]


def _less(value: Value, other: float, scale: float = 1.0) -> Value:
    low, high = (None if bound is None else (bound - other) / scale for bound in (value.low, value.high))
    return Value((value.mean - other) / scale, low, high)


def _largest(paths: dict[str, list[tuple[float, dict[str, Value]]]], metric: str) -> float:
    changes = [abs(values[metric].mean) for path in paths.values() for _, values in path if metric in values]
    return max(changes, default=0.0)


def _turn(axes: Axes, path: Sequence[Any], largest: dict[str, float], look: Look) -> None:
    for metric, (colour, style) in _colours(look).items():
        if not largest[metric] or metric not in path[0][1]:
            continue
        kls = [kl for kl, _ in path]
        values = [_less(values[metric], 0.0, largest[metric]) for _, values in path]
        axes.plot(kls, [value.mean for value in values], color=colour, linestyle=style, linewidth=2)
        band(axes, kls, values, colour)
        if metric == "gold":
            kl, value = max(zip(kls, values, strict=True), key=lambda each: each[1].mean)
            axes.plot([kl], [value.mean], "v", color=colour, markersize=8)


def _colours(look: Look) -> dict[str, tuple[str, Any]]:
    return {"score": (look.theme.quiet, (0, (4, 1.5))), "gold": (look.theme.ink, "-")}


def _rewards(largest: dict[str, float], look: Look) -> tuple[list[Any], list[str]]:
    there = {metric: how for metric, how in _colours(look).items() if largest[metric]}
    handles = [line(color=colour, linestyle=style, linewidth=2) for colour, style in there.values()]
    labels = [look.metric(metric) for metric in there]
    if "gold" in there:
        handles.append(line(color=there["gold"][0], marker="v", linestyle="none", markersize=8))
        labels.append(look.label("gold peak"))
    return handles, labels

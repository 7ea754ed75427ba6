"""Plots the responses themselves: the best of several, their distributions, their lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from ..findings import BestOfCurve, Findings, Histogram, Value
from .axes import band, legend, line, panels, places, signed
from .style import TEXT, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 22
"""Letters below one of three panels."""
RIDGE = 1.3
"""Rows that the highest bar of a row is high: ridges may overlap."""
HOW: dict[str, dict[str, Any]] = {
    "best": {"linestyle": "-", "linewidth": 2},
    "predicted": {"linestyle": (0, (4, 2)), "linewidth": 1.2},
    "median": {"linestyle": (0, (1, 1.3)), "linewidth": 1.6},
}


def plot_best_of(findings: Findings, look: Look) -> Figure | None:
    """Best and median of K responses, with what Gaussian scores would give; below it the gold reward of the best."""
    curves = findings.best_of
    if not curves:
        return None
    with_gold = any(curve.gold for curve in curves)
    figure = look.figure("best_of", 5.6 if with_gold else 3.4)
    every = list(figure.subplots(1 + with_gold, 1, sharex=True, squeeze=False).flat)
    for curve in curves:
        _scores(every[0], curve, look)
        if curve.gold:
            _line(every[1], curve, curve.gold, look)
    every[0].set_ylabel(look.metric("score"))
    if with_gold:
        every[1].set_ylabel(look.metric("gold"))
        every[1].set_title(look.label("gold of the pick"), loc="left")
    _doublings(every[-1], curves, look)
    legend(figure, *_best_and_median(curves, look))
    return figure


def _best_and_median(curves: Sequence[BestOfCurve], look: Look) -> tuple[list[Any], list[str]]:
    """The legend: methods by their colours, and what the lines are."""
    styles = [look.styles[curve.method] for curve in curves]
    handles = [line(color=each.colour, marker=each.marker, linewidth=2, markersize=6) for each in styles]
    handles += [line(color=look.theme.quiet, **how) for how in HOW.values()]
    return handles, [*(look.name(curve.method) for curve in curves), *map(look.label, HOW)]


def _scores(axes: Axes, curve: BestOfCurve, look: Look) -> None:
    colour = look.styles[curve.method].colour
    axes.plot(curve.ks, curve.predicted, color=colour, **HOW["predicted"])
    axes.plot(curve.ks, [value.mean for value in curve.median], color=colour, **HOW["median"])
    band(axes, curve.ks, curve.median, colour)
    _line(axes, curve, curve.best, look)


def _line(axes: Axes, curve: BestOfCurve, values: Sequence[Value], look: Look) -> None:
    colour, marker, _ = look.styles[curve.method]
    axes.plot(curve.ks, [value.mean for value in values], color=colour, marker=marker, markersize=6, **HOW["best"])
    band(axes, curve.ks, values, colour)


def _doublings(axes: Axes, curves: Sequence[BestOfCurve], look: Look) -> None:
    ks = sorted({k for curve in curves for k in curve.ks})
    powers = [k for k in ks if k & (k - 1) == 0] or ks  # 12 would touch 16
    axes.set_xscale("log", base=2)
    axes.set_xticks(powers, [str(k) for k in powers])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(look.label("K"))


def plot_distributions(findings: Findings, look: Look) -> Figure | None:
    """A row for each method and a panel for each metric; a tick is the mean."""
    histograms, methods = findings.histograms, findings.methods
    names = list(dict.fromkeys(name for each in histograms for name in each.shares))
    if not names:
        return None
    rows, columns = places(len(histograms))
    figure = look.figure("distributions", 0.6 + rows * (0.9 + 0.42 * len(names)))
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, histogram in zip(grid.flat, histograms, strict=False):
        means = {each.name: each.metrics[histogram.metric].mean for each in methods if histogram.metric in each.metrics}
        _ridges(axes, histogram, names, means, look)
    for axes in grid.flat[len(histograms) :]:
        axes.set_axis_off()
    mean = line(marker="|", linestyle="none", **_tick(look))
    legend(figure, [mean], [look.label("mean")])
    return figure


def _tick(look: Look) -> dict[str, Any]:
    return {"color": look.theme.ink, "markersize": 9, "markeredgewidth": 1.6}


def _ridges(axes: Axes, histogram: Histogram, names: Sequence[str], means: Mapping[str, float], look: Look) -> None:
    highest = max((max(shares) for shares in histogram.shares.values()), default=0.0) or 1.0
    edges = np.asarray(histogram.edges)
    for place, name in enumerate(names):
        row = len(names) - 1 - place
        if name in histogram.shares:
            heights = np.asarray(histogram.shares[name]) * RIDGE / highest
            _ridge(axes, edges, heights, row, look.styles[name].colour, look.theme.ground)
            if name in means:
                axes.plot([means[name]], [row], "|", zorder=10, **_tick(look))
    axes.set_yticks(range(len(names)), [look.name(name) for name in reversed(names)])
    axes.set_ylim(-0.4, len(names) - 1 + RIDGE + 0.15)
    axes.tick_params(axis="y", length=0, labelsize=TEXT)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=4, steps=[1, 2, 5, 10])
    axes.set_xlabel(fill(look.metric(histogram.metric), ACROSS))


def _ridge(axes: Axes, edges: np.ndarray, heights: np.ndarray, row: int, colour: str, ground: str) -> None:
    """A row further down hides what of the one above it reaches into."""
    order = 5 - row / 100
    axes.stairs(heights + row, edges, baseline=row, fill=True, color=ground, zorder=order)
    axes.stairs(heights + row, edges, baseline=row, fill=True, color=colour, alpha=0.35, zorder=order)
    axes.stairs(heights + row, edges, baseline=row, color=colour, linewidth=1.3, zorder=order)


def plot_lengths(findings: Findings, look: Look) -> Figure | None:
    """Does a longer response get more? A panel for each method; rho is Spearman's rank correlation."""
    points = {each.method: each for each in findings.lengths if each.length}
    if not points:
        return None
    figure, each = panels(look, "lengths", list(points), 2.0)
    for name, axes in each:
        colour, marker, _ = look.styles[name]
        length, reward = points[name].length, points[name].reward
        axes.plot(length, reward, marker, color=colour, markersize=3.2, alpha=0.45, markeredgewidth=0)
        rho = points[name].correlation
        axes.set_title(look.name(name) if rho is None else f"{look.name(name)}\nρ = {signed(rho)}")
    figure.supxlabel(look.metric("length"), fontsize="medium")
    figure.supylabel(look.metric(findings.primary), fontsize="medium")
    return figure

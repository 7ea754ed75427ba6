"""Figures of what K responses are worth, as PNG files, and what all figures need (`new_figure`, `save_figure`).

They need matplotlib, which the extra `prefopt[report]` brings; without it one line in the log says so, and no figure
is plotted.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..utils import files
from ..utils.extras import install
from .order_statistics import STATISTICS, Estimate

logger = logging.getLogger(__name__)

TICKS = 12
"""As many numbers as stand side by side."""
APART = 0.06
"""Of the distance of two temperatures."""
SIZE = (7.0, 4.5)
DPI = 150
DARKEST, LIGHTEST = 0.0, 0.85
"""Of viridis, which colour-blind people can tell apart and whose lightest yellow nobody sees on white."""
LINES: dict[str, Any] = {"max": "-", "mean": "--", "median": ":"}
GREY = "0.45"
STAR = {"color": "#D55E00", "markeredgecolor": "white", "linestyle": "none"}
BESIDE: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}
"""Where the legend stands: never on a curve."""


def plot_temperatures(
    path: Path,
    curves: Mapping[str, Mapping[float, Estimate]],
    best: float,
    plausible: tuple[float, float],
    doubtful: Collection[float] = (),
) -> bool:
    """Reward against temperature (Llama 2, arXiv:2307.09288, Figure 8). Returns whether it was plotted.

    Args:
        curves: name of a curve -> temperature -> estimate. The first is the one that `best` is the best of.
        plausible: the lowest and the highest temperature that may as well be the best; a band.
        doubtful: temperatures that a guard left out; their marks are hollow.
    """
    figure = new_figure()
    if figure is None:
        return False
    axes = figure.add_subplot()
    ticks = sorted({temperature for curve in curves.values() for temperature in curve})
    shifts = _shifts(ticks, len(curves))
    lines = [
        _plot_with_errors(axes, curve, doubtful, colour, label, shift)
        for colour, shift, (label, curve) in zip(_colours(len(curves)), shifts, curves.items(), strict=True)
    ]
    highest = (best + shifts[0], next(iter(curves.values()))[best].mean)
    marks = _plot_marks(axes, highest, f"best: {best:g}", plausible, bool(doubtful))
    if len(ticks) <= TICKS:
        axes.set_xticks(ticks)
    _label(axes, "Reward of the best of N responses at each temperature", "temperature", "expected reward")
    axes.legend(handles=[*lines, *marks], **BESIDE)
    return save_figure(figure, path)


def plot_rewards(path: Path, iterations: Mapping[int, Mapping[int, Mapping[str, Estimate]]]) -> bool:
    """Maximum, mean and median reward against the number of responses (Llama 2, Figure 7). Whether it was plotted.

    Args:
        iterations: iteration -> N -> "max", "mean", "median" -> estimate, as `reward_curves` makes for one.
    """
    figure = new_figure()
    if figure is None:
        return False
    axes = figure.add_subplot()
    for colour, (_, curves) in zip(_colours(len(iterations)), sorted(iterations.items()), strict=True):
        for name in STATISTICS:
            _plot_with_band(axes, {n: row[name] for n, row in curves.items()}, colour, name)
    numbers = sorted({n for curves in iterations.values() for n in curves})
    axes.set_xscale("log", base=2)
    axes.set_xticks(numbers, [str(n) for n in numbers])
    axes.set_xticks([], minor=True)
    _label(axes, "Reward of N responses to a prompt", "responses per prompt N", "expected reward")
    _add_legends(axes, sorted(iterations))
    return save_figure(figure, path)


def new_figure() -> Any:
    """An empty figure, or None without matplotlib.

    It is made without pyplot, whose figures are global and whose windows a server does not have.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("no figure is plotted, since matplotlib is missing: %s", install("report"))
        return None
    return Figure(figsize=SIZE, dpi=DPI, layout="constrained")


def _colours(count: int) -> list[Any]:
    from matplotlib import colormaps

    step = (LIGHTEST - DARKEST) / max(1, count - 1)
    return [colormaps["viridis"](DARKEST + step * i) for i in range(count)]


def _shifts(ticks: Sequence[float], count: int) -> list[float]:
    """How far to the right each curve stands, so that error bars do not hide one another."""
    gap = min((high - low for low, high in pairwise(ticks)), default=0.0)
    return [gap * APART * (number - (count - 1) / 2) for number in range(count)]


def _plot_with_errors(
    axes: Any, curve: Mapping[float, Estimate], doubtful: Collection[float], colour: Any, label: str, shift: float
) -> Any:
    """Plot a curve with error bars. Returns its line, for the legend."""
    xs, means, below, above = _with_reaches(curve)
    places = [x + shift for x in xs]
    line = axes.errorbar(places, means, yerr=(below, above), color=colour, capsize=2, linewidth=1.4, label=label)
    for x, place, mean in zip(xs, places, means, strict=True):
        axes.plot(place, mean, "o", color=colour, markersize=5, markerfacecolor="white" if x in doubtful else colour)
    return line


def _plot_marks(
    axes: Any, highest: tuple[float, float], label: str, plausible: tuple[float, float], doubtful: bool
) -> list[Any]:
    """Mark the best, those that may be as good, and those that a guard left out. Returns the marks, for the legend."""
    marks = axes.plot(*highest, "*", markersize=16, zorder=5, label=label, **STAR)
    if plausible[0] < plausible[1]:
        band = {"color": GREY, "alpha": 0.12, "linewidth": 0, "zorder": 0}
        marks.append(axes.axvspan(*plausible, label="may be the best", **band))
    if doubtful:
        marks += axes.plot([], [], "o", markerfacecolor="white", color=GREY, label="not to be chosen")
    return marks


def _plot_with_band(axes: Any, curve: Mapping[int, Estimate], colour: Any, name: str) -> None:
    """Plot a curve with its band; the mean, which is the same for every N and near the median, has none of its own."""
    ns, means, below, above = _with_reaches(curve)
    axes.plot(ns, means, LINES[name], color=colour, linewidth=1.6)
    if name != "mean":
        low = [mean - reach for mean, reach in zip(means, below, strict=True)]
        high = [mean + reach for mean, reach in zip(means, above, strict=True)]
        axes.plot(ns, means, "o", color=colour, markersize=3)
        axes.fill_between(ns, low, high, color=colour, alpha=0.15, linewidth=0)


def _with_reaches(curve: Mapping[Any, Estimate]) -> tuple[list[Any], list[float], list[float], list[float]]:
    """x, mean, and how far the interval reaches below and above it."""
    xs, estimates = zip(*sorted(curve.items()), strict=True)
    below, above = [_reach(e.mean - e.low) for e in estimates], [_reach(e.high - e.mean) for e in estimates]
    return list(xs), [e.mean for e in estimates], below, above


def _reach(length: float) -> float:
    """The mean of one prompt has no interval, and an axis no infinity."""
    return max(length, 0.0) if math.isfinite(length) else 0.0


def _add_legends(axes: Any, iterations: Sequence[int]) -> None:
    """Say what the lines are, and what the colours are where there are several."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=GREY, linestyle=LINES[name], label=name) for name in STATISTICS]
    colours = [
        Line2D([], [], color=colour, linewidth=4, label=f"iteration {number}")
        for colour, number in zip(_colours(len(iterations)), iterations, strict=True)
        if len(iterations) > 1
    ]
    axes.legend(handles=[*lines, *colours], **BESIDE)


def _label(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Any, path: Path) -> bool:
    """Write a figure as a PNG file, whole or not at all; the same numbers give the same bytes. Returns True."""
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    files.replace(path, data.getvalue())
    return True

"""Plots reward against KL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..findings import BestOfCurve, Findings, FrontierPoint
from .axes import dot, legend, line, square_root
from .style import Look
from .training import by_method, by_seed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PATH: dict[str, Any] = {"linewidth": 0.9, "alpha": 0.5}
BOUND: dict[str, Any] = {"linestyle": (0, (1, 1.2)), "linewidth": 1.6}
STEPS: dict[str, Any] = {"linewidth": 5, "alpha": 0.25}


def plot_frontier(findings: Findings, look: Look) -> Figure | None:
    """Where the methods end, with intervals both ways, and how their training got there.

    The reward is the findings' primary metric; what is dominated by another method's means is hollow.
    """
    points = findings.frontier
    if not points:
        return None
    figure = look.figure("frontier", 4.7)
    axes = figure.add_subplot()
    paths = _paths(axes, findings, look)
    bound = _bound(axes, findings, look)
    steps = _frontier_line(axes, points, look)
    for point in points:
        dot(axes, point.kl, point.reward, _mark(point, look))
    square_root(axes, [*_reached(points), *paths, *bound])
    axes.set_xlabel(look.metric("kl"))
    axes.set_ylabel(look.label("interval", metric=look.metric(findings.primary), level=100 * findings.level))
    lines = {"path": PATH if paths else None, "best-of-n": BOUND if bound else None, "frontier line": steps}
    legend(figure, *_legend(points, lines, look))
    return figure


def _reached(points: Sequence[FrontierPoint]) -> list[float]:
    """The KLs that points and their intervals take."""
    return [each for point in points for each in (point.kl.mean, point.kl.low, point.kl.high) if each is not None]


def _mark(point: FrontierPoint, look: Look) -> dict[str, Any]:
    hollow = {"markerfacecolor": look.theme.ground} if point.dominated_by else {}
    return look.mark(point.name) | {"markersize": 9} | hollow


def _paths(axes: Axes, findings: Findings, look: Look) -> list[float]:
    """A thin line for each seed; the KLs that they reach."""
    reached = []
    for name, moments in by_method(findings).items():
        for seed in by_seed([moment for moment in moments if {"kl", findings.primary} <= set(moment.values)]):
            kls = [moment.values["kl"] for moment in seed]
            rewards = [moment.values[findings.primary] for moment in seed]
            axes.plot(kls, rewards, color=look.styles[name].colour, zorder=1, **PATH)
            reached += kls
    return reached


def best_of_n_kl(n: float) -> float:
    """The bound that best-of-n's KL to the policy it selects from cannot exceed (Beirami et al., arXiv:2401.01879)."""
    return math.log(n) - (n - 1) / n


def _bound(axes: Axes, findings: Findings, look: Look) -> list[float]:
    """What selecting from the reference alone gives, if a method does so; the KLs that it reaches."""
    curve = _source(findings) if any(method.method == "best-of-n" for method in findings.methods) else None
    values = {"gold": curve.gold, "score": curve.best}.get(findings.primary) if curve else None
    if curve is None or values is None:
        return []
    kls = [best_of_n_kl(k) for k in curve.ks]
    axes.plot(kls, [value.mean for value in values], color=look.theme.ink, zorder=2, **BOUND)
    return kls


def _source(findings: Findings) -> BestOfCurve | None:
    """Of the policy that best-of-n selects from."""
    sources = {method.name for method in findings.methods if method.method == "sft"}
    return next((curve for curve in findings.best_of if curve.method in sources), None)


def _frontier_line(axes: Axes, points: Sequence[FrontierPoint], look: Look) -> dict[str, Any] | None:
    """A staircase over the points that nothing dominates; none is needed for one of them."""
    on = sorted((point.kl.mean, point.reward.mean) for point in points if not point.dominated_by)
    if len(on) < 2:
        return None
    axes.step(*zip(*on, strict=True), where="post", zorder=0.5, color=look.theme.quiet, **STEPS)
    return STEPS


def _legend(
    points: Sequence[FrontierPoint], lines: Mapping[str, dict[str, Any] | None], look: Look
) -> tuple[list[Any], list[str]]:
    """Methods, then hollow points, then the lines that were plotted."""
    ink, quiet = look.theme.ink, look.theme.quiet
    handles = [line(**_mark(point, look)) for point in points]
    labels = [look.name(point.name) for point in points]
    if any(point.dominated_by for point in points):
        handles.append(line(color=ink, markerfacecolor=look.theme.ground, marker="o", markersize=9, linestyle="none"))
        labels.append(look.label("dominated"))
    plotted = {key: how for key, how in lines.items() if how is not None}
    handles += [line(color=ink if key == "best-of-n" else quiet, **how) for key, how in plotted.items()]
    return handles, [*labels, *map(look.label, plotted)]

"""Plots what methods cost, and what they gained for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..findings import Findings, Method, Value
from .axes import Unit, dot, legend, rows_height
from .style import TEXT, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HATCH = "////"
MARK_AT = -0.025
"""Of the axes' width: where a method's mark stands before its bar, so that the lower panel needs no legend."""


def plot_cost(findings: Findings, look: Look) -> Figure | None:
    """Operations by purpose, those of shared stages hatched; below it the gain that the whole of them bought."""
    if not any(method.cost.total for method in findings.methods):
        return None
    gains = _gains(findings)
    bars = rows_height(len(findings.methods))
    figure = look.figure("cost", bars + (2.8 if gains else 0.0))
    ratios = {"height_ratios": [bars, 3.0]} if gains else {}
    every = list(figure.subplots(1 + bool(gains), 1, sharex=True, squeeze=False, gridspec_kw=ratios).flat)
    unit = Unit.of(method.cost.total for method in findings.methods)
    legend(figure, *_bars(every[0], findings.methods, unit, look))
    if gains:
        _bought(every[1], findings, gains, unit, look)
    every[-1].set_xlabel(look.label("total", unit=unit.name))
    return figure


def _bars(axes: Axes, methods: Any, unit: Unit, look: Look) -> tuple[list[Any], list[str]]:
    handles: dict[str, Any] = {}
    for row, method in enumerate(reversed(methods)):
        left = 0.0
        for key, flops, how in _parts(method, methods, look):
            handles[key] = axes.barh(row, flops / unit.size, left=left, height=0.62, linewidth=0, **how)
            left += flops / unit.size
        mark = look.mark(method.name) | {"transform": axes.get_yaxis_transform(), "clip_on": False}
        axes.plot([MARK_AT], [row], **mark)
    axes.set_yticks(range(len(methods)), [look.name(method.name) for method in reversed(methods)])
    axes.tick_params(axis="y", length=0, labelsize=TEXT, pad=17)
    axes.grid(visible=False, axis="y")
    handles = {key: handles[key] for key in sorted(handles, key=lambda key: _order(key, look))}
    return list(handles.values()), [look.wording.labels.get(f"purpose.{key}", key) for key in handles]


def _parts(method: Method, methods: Any, look: Look) -> list[tuple[str, float, dict[str, Any]]]:
    """Shared stages first, from the zero line, in the same place for every method that needs them."""
    stages = list(dict.fromkeys(stage for each in methods for stage in each.cost.shared))
    greys = {stage: look.theme.shared[number % len(look.theme.shared)] for number, stage in enumerate(stages)}
    shared = [
        (stage, method.cost.shared[stage], {"color": greys[stage], "hatch": HATCH})
        for stage in stages
        if method.cost.shared.get(stage)
    ]
    colours = look.theme.purposes
    own = [(key, flops, {"color": colours.get(key, look.theme.quiet)}) for key, flops in method.cost.flops.items()]
    return shared + sorted((each for each in own if each[1]), key=lambda each: _order(each[0], look))


def _order(purpose: str, look: Look) -> int:
    known = list(look.theme.purposes)
    return known.index(purpose) if purpose in known else len(known)


def _gains(findings: Findings) -> dict[str, Value]:
    """Over the baseline, which itself gains nothing."""
    gains = {method.name: method.metrics["gain"] for method in findings.methods if "gain" in method.metrics}
    return gains and {findings.baseline: Value(0.0), **gains}


def _bought(axes: Axes, findings: Findings, gains: dict[str, Value], unit: Unit, look: Look) -> None:
    totals = {method.name: method.cost.total / unit.size for method in findings.methods}
    for name, gain in gains.items():
        if name in totals:
            dot(axes, totals[name], gain, look.mark(name) | {"markersize": 9})
    axes.axhline(0.0, color=look.theme.quiet, linestyle=(0, (4, 2)), linewidth=1.2, zorder=1)
    axes.set_ylabel(look.metric("gain"))

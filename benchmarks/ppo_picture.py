"""How the runs of `ppo.py` went, against optimizer steps. Knows runs and axes, and judges nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.candidates.plot import new_figure, save_figure

from .ppo_outcome import Run

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which colour-blind people can tell apart."""
DARK, GREY = "0.15", "0.45"
DASHES = ("-", "--", ":")
PANEL = (4.4, 2.9)
SMALL = (3.3, 2.5)
PANELS = {
    "score": ("Score by the reward model", "objective/scores"),
    "gold": ("Gold reward", None),
    "kl": ("KL to SFT, nats per response", "objective/kl"),
    "length": ("Response length, tokens", "lengths/response"),
    "perplexity": ("Perplexity under the policy", "ppl/policy"),
}
LEVELS = {"score": "score", "gold": "gold", "kl": "log_ratio", "length": "length"}
"""What a policy without rollouts comes to, on held-out prompts."""
Line = tuple[Any, str, Sequence[Run]]
"""Colour, dash, and a run for each seed."""


def draw(path: Path, runs: Sequence[Run], groups: Sequence[tuple[str, Sequence[str]]]) -> bool:
    """A block of panels for each group of methods. Whether it was drawn.

    One group has two rows of large panels and a thin line for each seed; several have a row each, and a band.
    """
    figure = new_figure() if any(run.records for run in runs) else None
    if figure is None:
        return False
    several = len(groups) > 1
    columns, rows = (6, len(groups)) if several else (3, 2)
    width, height = SMALL if several else PANEL
    figure.set_size_inches(width * columns, height * rows + 0.2)
    for number, (title, methods) in enumerate(groups):
        lines = _lines(runs, methods)
        places = range(6 * number + 1, 6 * number + 7)
        axes = [figure.add_subplot(rows, columns, place) for place in places]
        for panel, each in zip(PANELS, axes, strict=False):
            _panel(each, panel, lines, band=several)
        _legend(axes[-1], title, lines, band=several)
    return save_figure(figure, path)


def _lines(runs: Sequence[Run], methods: Sequence[str]) -> dict[str, Line]:
    """The first of PPO is what the others are compared with: dark. A policy without rollouts is grey."""
    drawn = {name: [run for run in runs if run.method == name] for name in methods}
    drawing = [name for name in methods if drawn[name][0].records]
    styles = [(DARK, "-"), *((colour, dash) for dash, colour in product(DASHES, COLOURS))]
    looks = dict(zip(drawing, styles, strict=False))
    return {name: (*looks.get(name, (GREY, "--")), of) for name, of in drawn.items()}


def _panel(axes: Any, panel: str, lines: dict[str, Line], *, band: bool) -> None:
    axes.set_title(PANELS[panel][0], fontsize=10, loc="left")
    axes.set_xlabel("optimizer steps", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    for colour, dash, runs in lines.values():
        if runs[0].records:
            _curve(axes, panel, runs, {"color": colour, "linestyle": dash}, band=band)
        elif panel in LEVELS:
            level = float(np.mean([run.mean(LEVELS[panel]) for run in runs]))
            axes.axhline(level, color=colour, linestyle=dash, linewidth=1.4)
    if panel in ("kl", "perplexity"):
        _spread(axes, panel)


def _curve(axes: Any, panel: str, runs: Sequence[Run], style: dict[str, Any], *, band: bool) -> None:
    """The mean over seeds, and the seeds around it."""
    steps = [record.step for record in runs[0].records]
    curves = np.array([_values(run, panel) for run in runs])
    axes.plot(steps, curves.mean(0), linewidth=1.8, zorder=3, **style)
    if len(runs) > 1 and band:
        axes.fill_between(steps, curves.min(0), curves.max(0), color=style["color"], alpha=0.12, linewidth=0)
    elif len(runs) > 1:
        axes.plot(steps, curves.T, linewidth=0.6, alpha=0.45, **style)


def _values(run: Run, panel: str) -> list[float]:
    metric = PANELS[panel][1]
    return run.golds if metric is None else [record.metric(metric) for record in run.records]


def _spread(axes: Any, panel: str) -> None:
    """A logarithmic axis, since what collapses goes far beyond the others; with plain numbers beside it."""
    from matplotlib.ticker import NullLocator, StrMethodFormatter

    axes.set_yscale("symlog", linthresh=1.0) if panel == "kl" else axes.set_yscale("log")
    highest = max((max(line.get_ydata()) for line in axes.lines), default=1.0)
    ticks = (0, 1, 2, 3, 5, 10, 30, 100, 300, 1000) if panel == "kl" else (1, 1.2, 1.5, 2, 3, 5, 10, 30, 100)
    axes.set_yticks([tick for tick in ticks if tick <= 1.5 * highest])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _legend(axes: Any, title: str, lines: dict[str, Line], *, band: bool) -> None:
    """In a place of its own, where it covers no curve."""
    from matplotlib.lines import Line2D

    axes.set_axis_off()
    handles = []
    for name, (colour, dash, runs) in lines.items():
        label = name if runs[0].records else f"{name}, at its end"
        handles.append(Line2D([], [], color=colour, linestyle=dash, linewidth=1.8, label=label))
    axes.legend(handles=handles, title=title or None, loc="center left", frameon=False, fontsize=9, alignment="left")
    count = max(len(runs) for _, _, runs in lines.values())
    if count > 1:
        said = "band: least and most" if band else "thin: each"
        axes.text(0.02, 0.02, f"mean of {count} seeds, {said}", transform=axes.transAxes, fontsize=8, color=GREY)

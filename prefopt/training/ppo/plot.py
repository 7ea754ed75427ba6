"""A picture of how PPO's rollouts went, as a PNG file; `collapse.py` says what is wrong in them.

One panel for each thing that Secrets of RLHF part I (arXiv:2307.04964, section 5.2) watches, against optimizer steps.
Needs matplotlib, as `picture.py` does; without it one line in the log says so, and there is no picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...candidates.plot import GREY, new_figure, save_figure
from ...utils.renamed import renamed
from .log import Record

COLUMNS = 3
PANEL = (4.4, 2.9)
GAP = 0.1
"""Inches, both."""
FIRST, SECOND, ALARM = "#0072B2", "#E69F00", "#D55E00"
"""Of Okabe and Ito's colours, which colour-blind people can tell apart."""
DARK = "0.2"
BANDS = ((0.05, 0.95, 0.18), (0.25, 0.75, 0.30))
"""Lower quantile, upper quantile, and how dense its colour is."""
BINS = 40
HEIGHT = 0.8
"""Of a histogram, in distances from one to the next."""
MARKED = 12
"""With more rollouts than these, marks would hide the line."""
Panel = Callable[[Any, Sequence[Record]], None]


@dataclass(frozen=True)
class _Lines:
    """A panel of metrics that share an axis."""

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    """Metric and what the legend calls it."""
    scale: str = "linear"
    bottom: float | None = None
    top: float | None = None

    def __call__(self, axes: Any, records: Sequence[Record]) -> None:
        for (metric, label), colour, dash in zip(self.lines, (FIRST, SECOND), ("-", "--"), strict=False):
            _line(axes, records, metric, color=colour, linestyle=dash, label=label)
        axes.set_yscale(self.scale)
        _ticks(axes, self.scale)
        axes.set_ylim(self.bottom, self.top)
        _title(axes, self.title, self.unit)
        if len(self.lines) > 1:
            axes.legend(frameon=False, fontsize=8)


def plot_rollouts(
    records: Sequence[Record],
    path: str | Path,
    *,
    wanted: Collection[str] | None = None,
    last_good: int | None = None,
) -> bool:
    """Plot what the records hold; whether a picture was written.

    Args:
        wanted: names of panels, of `PANELS`; None draws all. A panel of which no record knows anything is left out.
        last_good: the rollout after which a guard saw the policy go wrong, for a line there.

    Raises:
        ValueError: a wanted panel that there is not.
        OSError: the file cannot be written.
    """
    shown = panels_of(records, wanted)
    figure = new_figure() if shown else None
    if figure is None:
        return False
    rows = math.ceil(len(shown) / COLUMNS)
    columns = min(COLUMNS, len(shown))
    figure.set_size_inches(PANEL[0] * columns, PANEL[1] * rows + 0.4)
    figure.get_layout_engine().set(w_pad=GAP, h_pad=GAP)
    for number, name in enumerate(shown, 1):
        _panel(figure.add_subplot(rows, columns, number, label=name), name, records, last_good)
    _explain(figure, records, last_good)
    return save_figure(figure, Path(path))


def panels_of(records: Sequence[Record], wanted: Collection[str] | None = None) -> list[str]:
    """The names of the panels that can be plotted, of those wanted."""
    if unknown := set(wanted or ()) - set(PANELS):
        raise ValueError(f"there is no panel {', '.join(sorted(unknown))}: choose from {', '.join(PANELS)}")
    chosen = [name for name in PANELS if wanted is None or name in wanted]
    return [name for name in chosen if any(_known(record, name) for record in records)]


def _known(record: Record, panel: str) -> bool:
    """Whether a record has something to draw in a panel."""
    drawing = PANELS[panel]
    if drawing is _distribution or drawing is _histograms:
        return any(map(math.isfinite, record.scores))
    names = [name for name, _ in drawing.lines] if isinstance(drawing, _Lines) else ["lengths/response"]
    return any(math.isfinite(record.metric(name)) for name in names)


def _panel(axes: Any, name: str, records: Sequence[Record], last_good: int | None) -> None:
    PANELS[name](axes, records)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    if name == "histograms":
        return
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_xlabel("optimizer steps", fontsize=8)
    for start, end in alone_spans(records):
        axes.axvspan(start, end, color=GREY, alpha=0.15, linewidth=0, zorder=0)
    for record in records:
        if record.rollout == last_good:
            axes.axvline(record.step, color=ALARM, linestyle=":", linewidth=1.4)


def alone_spans(records: Sequence[Record]) -> list[tuple[int, int]]:
    """From and to which optimizer step the critic learns alone."""
    runs = [(alone, list(run)) for alone, run in groupby(records, key=lambda record: record.critic_alone)]
    ends = [run[0].step for _, run in runs[1:]] + [runs[-1][1][-1].step] if runs else []
    return [(run[0].step, end) for (alone, run), end in zip(runs, ends, strict=True) if alone]


def _explain(figure: Any, records: Sequence[Record], last_good: int | None) -> None:
    """What the shade and the line mean, once for all panels."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    if alone_spans(records):
        handles.append(Patch(color=GREY, alpha=0.15, linewidth=0, label="the critic learns alone"))
    if last_good in [record.rollout for record in records]:
        label = f"rollout {last_good}: the last good one"
        handles.append(Line2D([], [], color=ALARM, linestyle=":", linewidth=1.4, label=label))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def _line(axes: Any, records: Sequence[Record], metric: str, **style: Any) -> None:
    """A metric over steps, with gaps where it is not known."""
    xs, ys = [record.step for record in records], [record.metric(metric) for record in records]
    axes.plot(xs, ys, linewidth=1.5, marker="o" if len(xs) <= MARKED else None, markersize=3, **style)


def _title(axes: Any, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_ylabel(unit, fontsize=8)


def _ticks(axes: Any, scale: str) -> None:
    """Numbers that people read, 2 and 10, on a logarithmic axis too."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if scale == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _finite(record: Record) -> np.ndarray:
    scores = np.asarray(record.scores, dtype=np.float64)
    return scores[np.isfinite(scores)]


def _scored(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if len(_finite(record))]


def _distribution(axes: Any, records: Sequence[Record]) -> None:
    """Median, and bands of quantiles."""
    scored = _scored(records)
    steps = [record.step for record in scored]
    for low, high, alpha in BANDS:
        lower, upper = ([np.quantile(_finite(record), q) for record in scored] for q in (low, high))
        label = f"{low:.0%} to {high:.0%}"
        axes.fill_between(steps, lower, upper, color=FIRST, alpha=alpha, linewidth=0, label=label)
    medians = [np.median(_finite(record)) for record in scored]
    axes.plot(steps, medians, color=FIRST, linewidth=1.5, label="median")
    _title(axes, "Reward: its distribution", "score of a response")
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.18 * (high - low), high)  # room for the legend: the bands may be everywhere
    axes.legend(frameon=False, fontsize=8, loc="lower center", ncols=3, columnspacing=1.2, handlelength=1.6)


def _histograms(axes: Any, records: Sequence[Record]) -> None:
    """The first, the middle and the last rollout one above the other, medians marked, so that a tail shows."""
    scored = _scored(records)
    chosen = [scored[i] for i in sorted({0, len(scored) // 2, len(scored) - 1})]
    lowest = min(_finite(record).min() for record in chosen)
    highest = max(_finite(record).max() for record in chosen)
    edges = np.histogram_bin_edges([lowest, highest], BINS)
    for level, record in enumerate(reversed(chosen)):
        _ridge(axes, record, level, edges)
    axes.set_yticks(range(len(chosen)), [f"step {record.step}" for record in reversed(chosen)])
    axes.set_ylim(bottom=-0.1)
    axes.set_xlabel("score of a response", fontsize=8)
    _title(axes, "Reward: first, middle and last rollout", "")


def _ridge(axes: Any, record: Record, level: int, edges: np.ndarray) -> None:
    scores = _finite(record)
    counts = np.histogram(scores, edges)[0]
    heights = level + HEIGHT * counts / counts.max()
    axes.stairs(heights, edges, baseline=level, fill=True, color=FIRST, alpha=0.45, zorder=3 - level)
    axes.stairs(heights, edges, baseline=level, color=FIRST, linewidth=0.8, zorder=3 - level)
    median = float(np.median(scores))
    axes.plot([median, median], [level, level + HEIGHT], color=DARK, linewidth=1.2, zorder=4)
    axes.axhline(level, color="0.8", linewidth=0.8, zorder=1)


def _lengths(axes: Any, records: Sequence[Record]) -> None:
    """Tokens on the left; on the right, how many of the responses the length limit cut off."""
    _line(axes, records, "lengths/response", color=FIRST)
    axes.set_ylim(bottom=0)
    _title(axes, "Response length, and share cut off", "tokens")
    axes.yaxis.label.set_color(FIRST)
    shares = [1 - record.metric("val/num_eos_tokens") for record in records]
    if not any(map(math.isfinite, shares)):
        return
    right = axes.twinx()
    right.fill_between([record.step for record in records], shares, color=SECOND, alpha=0.35, linewidth=0)
    right.set_ylim(0, 1)
    right.yaxis.set_major_formatter("{x:.0%}")
    right.set_ylabel("cut off", fontsize=8, color="#9C6B00")
    right.tick_params(labelsize=8)
    right.spines["top"].set_visible(False)


PANELS: dict[str, Panel] = {
    "rewards": _distribution,
    "histograms": _histograms,
    "kl": _Lines("KL to the reference", "nats per response", (("objective/kl", "KL"),)),
    "length": _lengths,
    "perplexity": _Lines(
        "Perplexity of the responses",
        "",
        (("ppl/policy", "under the policy"), ("ppl/reference", "under the reference")),
        "log",
    ),
    "entropy": _Lines("Entropy", "nats per response", (("objective/entropy", "entropy"),), bottom=0),
    "distinct": _Lines(
        "Distinct n-grams", "share", (("distinct_1", "distinct-1"), ("distinct_2", "distinct-2")), bottom=0
    ),
    "clip": _Lines(
        "Clipped tokens", "share", (("policy/clipfrac_avg", "policy"), ("val/clipfrac_avg", "critic")), bottom=0
    ),
    "critic": _Lines("Critic: explained variance", "1 is perfect", (("val/explained_variance", "critic"),), top=1),
}
"""What can be plotted, in the order of the picture."""


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"draw_trace": "plot_rollouts"})

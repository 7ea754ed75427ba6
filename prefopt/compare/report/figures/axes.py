"""What several figures need of axes: intervals, scales, legends, small multiples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.cells import cell_len

from ..findings import Value
from .style import TEXT, WIDTH, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 30.0
"""Largest over smallest from which an axis is logarithmic."""
COLUMNS = 79
"""Letters in a line of a legend that is as wide as the figure."""
AROUND = 7
"""What a label's line and the space after it take of them."""
LINE = 0.28
"""Inches from one to the next."""
PANELS = 3
"""Small multiples side by side."""
TICKS_APART = 0.09
"""Of an axis: nearer ones would touch."""
SMALLEST = 6.0
"""Points."""
MINUS = "\u2212"
PREFIXES = ("", "K", "M", "G", "T", "P", "E", "Z", "Y")


def arms(values: Sequence[Value]) -> tuple[list[float], list[float]]:
    """How far intervals reach below and above their means; a value without one reaches nowhere."""
    below = [value.mean - value.low if value.low is not None else 0.0 for value in values]
    above = [value.high - value.mean if value.high is not None else 0.0 for value in values]
    return [max(0.0, each) for each in below], [max(0.0, each) for each in above]


def dot(axes: Axes, x: Value | float, y: Value | float, mark: Mapping[str, Any]) -> Any:
    """A point with its intervals."""
    points = [each if isinstance(each, Value) else Value(each) for each in (x, y)]
    reach: list[Any] = [np.array(arms([point])) if point.low is not None else None for point in points]
    bars = {"elinewidth": 1.6, "capsize": 0, "zorder": 3, **mark}
    return axes.errorbar([points[0].mean], [points[1].mean], xerr=reach[0], yerr=reach[1], **bars)


def band(axes: Axes, xs: Sequence[float], values: Sequence[Value], colour: str) -> None:
    """The intervals of a line, where there are any."""
    if any(value.low is not None for value in values):
        below, above = arms(values)
        means = np.array([value.mean for value in values])
        axes.fill_between(xs, means - below, means + above, color=colour, alpha=0.14, linewidth=0)


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], *, x: str = "", length: float = 1.8) -> None:
    """Below the axes, never on what they show, in lines like those of a text; the figure grows by them.

    Args:
        x: a label that all panels share, above it.
        length: of a line in it, in letters.
    """
    lines = _lines(labels)
    more = LINE * (len(lines) + bool(x)) + LINE / 2
    height = figure.get_figheight() + more
    figure.set_figheight(height)
    figure.get_layout_engine().set(rect=(0, more / height, 1, 1 - more / height))  # type: ignore[union-attr, call-arg]
    figure.text(0.5, (more - 0.5 * LINE) / height, x, ha="center", va="center").set_in_layout(False)
    how: dict[str, Any] = {"borderaxespad": 0.0, "borderpad": 0.1, "columnspacing": 1.3, "handletextpad": 0.5}
    for number, at in enumerate(reversed(lines)):
        how |= {"bbox_to_anchor": (0.012, (number + 0.3) * LINE / height), "ncols": len(at), "handlelength": length}
        box = figure.legend([handles[n] for n in at], [labels[n] for n in at], loc="lower left", **how)
        box.set_in_layout(False)


def _lines(labels: Sequence[str]) -> list[list[int]]:
    """Places of the labels that stand in each line."""
    lines: list[list[int]] = []
    room = 0.0
    for place, label in enumerate(labels):
        width = cell_len(label) + AROUND
        if not lines or width > room:
            lines.append([])
            room = COLUMNS
        lines[-1].append(place)
        room -= width
    return lines


def line(**options: Any) -> Any:
    """For a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **options)


def panels(look: Look, title: str, names: Sequence[str], height: float) -> tuple[Figure, Iterator[tuple[str, Axes]]]:
    """A small panel for each name, all with the same axes, three side by side; the empty places are left out."""
    rows, columns = places(len(names))
    figure = look.figure(title, 0.9 + height * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    spare = rows * columns - len(names)
    for column in range(columns - spare, columns):
        grid[-1, column].set_axis_off()
        grid[-2, column].tick_params(labelbottom=True)
    return figure, iter(zip(names, grid.flat, strict=False))


def places(count: int) -> tuple[int, int]:
    """Rows and columns of so many panels."""
    columns = 2 if count == 4 else min(PANELS, count)
    return math.ceil(count / columns), columns


def square_root(axes: Axes, values: Iterable[float], beside: int = 1) -> None:
    """KL as its root, in which reward is near a line at first (Gao et al., arXiv:2210.10760, eq. 1); -1 is at -1.

    An estimate of a KL can be below zero.

    Args:
        beside: how many such axes stand side by side.
    """
    reached = [0.0, *values]
    low, high = _root(np.array([min(reached), max(reached)])).tolist()
    room = 0.05 * (high - low) or 1.0
    axes.set_xscale("function", functions=(_root, _squared))
    axes.set_xlim(*_squared(np.array([low - room, high + room])).tolist())
    ticks = _root_ticks(low - room, high + room, TICKS_APART * beside)
    axes.set_xticks(ticks, [f"{tick:g}".replace("-", MINUS) for tick in ticks])


def _root(x: Any) -> Any:
    return np.sign(x) * np.sqrt(np.abs(x))


def _squared(x: Any) -> Any:
    return np.sign(x) * np.square(x)


def _root_ticks(low: float, high: float, apart: float) -> list[float]:
    """1, 2 and 5 with their powers of ten, from the largest down as long as they stand apart, and 0."""
    powers = [figure * 10.0**power for power in range(-6, 7) for figure in (1, 2, 5)]
    roots = sorted((sign * math.sqrt(value) for value in powers for sign in (-1, 1)), key=abs, reverse=True)
    kept = [0.0]
    for root in roots:
        if low <= root <= high and all(abs(root - other) >= apart * (high - low) for other in kept):
            kept.append(root)
    return sorted(float(f"{_squared(root):.6g}") for root in kept)


class Unit(NamedTuple):
    """Of compute."""

    name: str
    size: float

    @classmethod
    def of(cls, flops: Iterable[float]) -> Unit:
        """In which the largest is from 1 to 1000."""
        largest = max(flops, default=0.0)
        power = min(int(math.log10(largest) // 3), len(PREFIXES) - 1) if largest >= 1 else 0
        return cls(f"{PREFIXES[power]}FLOP", 1000.0**power)


def spread_out(axes: Axes, values: Iterable[float]) -> None:
    """A logarithmic x-axis if these differ much; around zero, which it could not show, it is linear."""
    above = [value for value in values if value > 0]
    if above and max(above) > WIDE * min(above):
        axes.set_xscale("symlog", linthresh=10.0 ** math.floor(math.log10(min(above))))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def signed(number: float) -> str:
    """With a minus as wide as a plus."""
    return f"{number:+.2f}".replace("-", MINUS)


def rows_height(rows: int, each: float = 0.36) -> float:
    """Inches of a figure with so many lines of text on top of each other."""
    return 1.2 + each * rows


def small(letters: int, inches: float = WIDTH - 2.2) -> float:
    """Size of a text of so many letters on one line, no less than can be read."""
    return min(TEXT, max(SMALLEST, 72 * inches / letters / 0.75))

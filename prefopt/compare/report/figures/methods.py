"""Plots how methods compare: one by one, in pairs, and by the grade of held-out pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...statistics import Verdict
from ..findings import Findings, GradeAccuracy, Method
from ..metrics import METRICS
from .axes import dot, legend, line, rows_height, signed, small
from .style import TEXT, Look, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

SIGNS = {
    Verdict.BEATS: "▲",
    Verdict.LOSES: "▼",
    Verdict.UNDECIDED: "○",
    Verdict.DIFFER: "≠",
    Verdict.ALIKE: "○",
}
CHANCE = 0.5
"""Accuracy of a coin on pairs."""


def plot_forest(findings: Findings, look: Look) -> Figure | None:
    """The primary metric of each method, the best on top, with a line where the baseline is."""
    primary = findings.primary
    methods = sorted((m for m in findings.methods if primary in m.metrics), key=lambda m: m.metrics[primary].mean)
    if not methods:
        return None
    figure = look.figure("forest", rows_height(len(methods), 0.4))
    axes = figure.add_subplot()
    for row, method in enumerate(methods):
        value = method.metrics[primary]
        dot(axes, value, row, look.mark(method.name) | {"markersize": 9})
        text = format(value.mean, METRICS[primary].format)
        axes.text(1.01, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=TEXT)
    _rows(axes, [look.name(method.name) for method in methods])
    axes.set_xlabel(look.label("interval", metric=look.metric(primary), level=100 * findings.level))
    _baseline(figure, axes, findings, methods, look)
    return figure


def _rows(axes: Axes, names: list[str]) -> None:
    """A line of text for each, from below."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.tick_params(axis="y", length=0, labelsize=TEXT)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def _baseline(figure: Figure, axes: Axes, findings: Findings, methods: list[Method], look: Look) -> None:
    for method in methods:
        if method.name == findings.baseline:
            how: dict[str, Any] = {"color": look.theme.quiet, "linestyle": (0, (4, 2)), "linewidth": 1.2}
            axes.axvline(method.metrics[findings.primary].mean, zorder=1, **how)
            legend(figure, [line(**how)], [look.label("baseline", name=look.name(method.name))])


def plot_matrix(findings: Findings, look: Look) -> Figure | None:
    """By how much the method of each row is ahead of that of each column, tinted by it, with a sign for the verdict."""
    names = [method.name for method in findings.methods]
    if not findings.pairings or len(names) < 2:
        return None
    figure = look.figure("matrix", 1.7 + min(5.6, 0.62 * len(names) + 0.6))
    axes = figure.add_subplot()
    differences = _differences(findings, names)
    reach = float(np.nanmax(np.abs(differences))) or 1.0
    axes.imshow(differences, cmap=_tints(look), vmin=-reach, vmax=reach, aspect="auto")
    _cells(axes, findings, names)
    _sides(axes, [look.name(name) for name in names])
    axes.set_xlabel(look.label("row less column", metric=look.metric(findings.primary)))
    signs = _key(findings, look)
    legend(figure, [line(linestyle="none")] * len(signs), signs, length=0)
    return figure


def _differences(findings: Findings, names: list[str]) -> np.ndarray:
    """[rows, columns]: NaN where two were not compared."""
    table = np.full((len(names), len(names)), np.nan)
    for pairing in findings.pairings:
        row, column = names.index(pairing.first), names.index(pairing.second)
        table[row, column], table[column, row] = pairing.difference.mean, -pairing.difference.mean
    return table


def _tints(look: Look) -> Colormap:
    """Through the ground's own colour, so that no difference is no tint."""
    from matplotlib.colors import LinearSegmentedColormap

    theme = look.theme
    return LinearSegmentedColormap.from_list("differences", [theme.worse, theme.ground, theme.better])


def _cells(axes: Axes, findings: Findings, names: list[str]) -> None:
    """Each pairing twice: as the one sees it, and as the other does."""
    letters = max(len(signed(pairing.difference.mean)) for pairing in findings.pairings)
    how: dict[str, Any] = {"ha": "center", "va": "center", "linespacing": 1.15}
    how["fontsize"] = small(letters * len(names))
    for pairing in findings.pairings:
        one, other = names.index(pairing.first), names.index(pairing.second)
        verdict, difference = Verdict(pairing.verdict), pairing.difference.mean
        axes.text(other, one, f"{signed(difference)}\n{SIGNS[verdict]}", **how)
        axes.text(one, other, f"{signed(-difference)}\n{SIGNS[verdict.reversed]}", **how)


def _sides(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="left", rotation_mode="anchor")
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _key(findings: Findings, look: Look) -> list[str]:
    """What the signs say."""
    found = {Verdict(pairing.verdict) for pairing in findings.pairings}
    found |= {verdict.reversed for verdict in found}
    return [f"{SIGNS[verdict]} {look.label(verdict.value)}" for verdict in Verdict if verdict in found]


def plot_grades(findings: Findings, look: Look) -> Figure | None:
    """Accuracy on held-out pairs: the surer the annotator was, the easier a pair should be."""
    names = list(dict.fromkeys(name for grade in findings.grades for name in grade.by))
    if not names:
        return None
    figure = look.figure("grades", 1.1 + len(findings.grades) * max(0.6, 0.13 * len(names)))
    axes = figure.add_subplot()
    for row, grade in enumerate(reversed(findings.grades)):
        _grade(axes, row, grade, names, look)
    chance: dict[str, Any] = {"color": look.theme.quiet, "linestyle": (0, (4, 2)), "linewidth": 1.2}
    axes.axvline(CHANCE, zorder=1, **chance)
    texts = [f"{plain(grade.grade)}\n{look.label('pairs', count=grade.pairs)}".strip() for grade in findings.grades]
    _rows(axes, texts[::-1])
    _between_rows(axes, len(findings.grades), look)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel(look.label("interval", metric=look.metric("accuracy"), level=100 * findings.level))
    handles = [*(line(**look.mark(name)) for name in names), line(**chance)]
    legend(figure, handles, [*map(look.name, names), look.label("chance")])
    return figure


def _grade(axes: Axes, row: int, grade: GradeAccuracy, names: list[str], look: Look) -> None:
    """The methods below each other, each at the same height in every row."""
    step = 0.8 / len(names)
    for name, value in grade.by.items():
        dot(axes, value, row + 0.4 - step * (names.index(name) + 0.5), look.mark(name) | {"markersize": 6})


def _between_rows(axes: Axes, rows: int, look: Look) -> None:
    for row in range(1, rows):
        axes.axhline(row - 0.5, color=look.theme.grid, linewidth=0.8, zorder=0)

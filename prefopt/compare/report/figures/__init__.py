"""Plots the report's figures into PNG files, light and dark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..findings import Findings
from .cost import plot_cost
from .methods import plot_forest, plot_grades, plot_matrix
from .responses import plot_best_of, plot_distributions, plot_lengths
from .reward_and_kl import plot_frontier
from .style import DPI, THEMES, Look, Theme, Wording
from .training import plot_curves, plot_overoptimisation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: Mapping[str, Callable[[Findings, Look], Figure | None]] = {
    "forest": plot_forest,
    "matrix": plot_matrix,
    "frontier": plot_frontier,
    "curves": plot_curves,
    "overoptimisation": plot_overoptimisation,
    "best_of": plot_best_of,
    "distributions": plot_distributions,
    "grades": plot_grades,
    "lengths": plot_lengths,
    "cost": plot_cost,
}
"""None of one says that the findings have nothing for it."""


def write_figures(
    findings: Findings, folder: Path, lang: str = "en", *, dpi: int = DPI
) -> dict[str, tuple[Path, Path]]:
    """Name -> the light and the dark file, of the figures that there are numbers for; none without matplotlib.

    The same findings give the same bytes with the same version of matplotlib and the same fonts.
    """
    from ....candidates.plot import new_figure

    if new_figure() is None:  # which says so in the log
        return {}
    wording = Wording.of(findings, lang)
    light, dark = (_written(findings, Look.of(findings, wording, theme, dpi=dpi), folder) for theme in THEMES)
    return {name: (light[name], dark[name]) for name in light}


def _written(findings: Findings, look: Look, folder: Path) -> dict[str, Path]:
    from ....candidates.plot import save_figure

    paths = {}
    with look.applied():
        for name, plot in FIGURES.items():
            figure = plot(findings, look)
            if figure is not None:
                paths[name] = folder / f"{name}{look.theme.suffix}.png"
                save_figure(figure, paths[name])
    return paths


__all__ = ["FIGURES", "Look", "Theme", "Wording", "write_figures"]

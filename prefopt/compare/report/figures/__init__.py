"""The report's figures as PNG files, light and dark. Knows which there are, not what is on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..findings import Findings
from .answers import draw_best_of, draw_distributions, draw_lengths
from .cost import draw_cost
from .plane import draw_frontier
from .standing import draw_forest, draw_grades, draw_matrix
from .style import DPI, THEMES, Look, Theme, Wording
from .training import draw_curves, draw_overoptimisation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: Mapping[str, Callable[[Findings, Look], Figure | None]] = {
    "forest": draw_forest,
    "matrix": draw_matrix,
    "frontier": draw_frontier,
    "curves": draw_curves,
    "overoptimisation": draw_overoptimisation,
    "best_of": draw_best_of,
    "distributions": draw_distributions,
    "grades": draw_grades,
    "lengths": draw_lengths,
    "cost": draw_cost,
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
        for name, draw in FIGURES.items():
            figure = draw(findings, look)
            if figure is not None:
                paths[name] = folder / f"{name}{look.theme.suffix}.png"
                save_figure(figure, paths[name])
    return paths


__all__ = ["FIGURES", "Look", "Theme", "Wording", "write_figures"]

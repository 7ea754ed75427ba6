"""How figures look: colours on light and on dark, a mark for each method, names that the fonts can write."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.cells import cell_len

from ..findings import Findings
from ..fonts import ADVICE, fonts_for
from .labels import LABELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

WIDTH = 7.0
"""Inches. With text of 11 points a phone of 390 pixels shows it 8.5 pixels high, a page of 900 at 20."""
DPI = 200
TEXT = 11.0
LONGEST = 22
"""Columns of a name, a Chinese character taking two; of a longer one the middle is left out."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1.5, 1, 1.5)))
"""A round of colours each."""


SETTINGS: dict[str, Any] = {
    **{key: TEXT for key in ("font.size", "axes.labelsize", "axes.titlesize", "legend.fontsize")},
    **{key: TEXT - 1 for key in ("xtick.labelsize", "ytick.labelsize")},
    **{key: 0.8 for key in ("axes.linewidth", "grid.linewidth")},
    **{key: False for key in ("axes.spines.top", "axes.spines.right", "legend.frameon")},
    **{key: True for key in ("axes.grid", "axes.axisbelow")},
    "text.parse_math": False,  # a method may be called $5
}


@dataclass(frozen=True)
class Theme:
    """
    Args:
        suffix: of the file.
        ground: the page's, of `page.css`.
        hues: of methods; the baseline has `quiet`. Colours that colour-blind people tell apart (Okabe and Ito 2008,
            Color Universal Design), without yellow, which nobody sees on white, and lighter where the ground is dark.
        worse, better: what a negative and a positive difference are tinted with; `ink` is readable on both.
        purposes: of what compute was spent on; no hues of methods.
        shared: of stages that several methods use.
    """

    suffix: str
    ground: str
    ink: str
    quiet: str
    grid: str
    hues: tuple[str, ...]
    worse: str
    better: str
    purposes: Mapping[str, str]
    shared: tuple[str, ...]


LIGHT = Theme(
    suffix="",
    ground="#fcfcfa",
    ink="#1f2328",
    quiet="#6b7280",
    grid="#e5e7eb",
    hues=("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    worse="#F2B27A",
    better="#8CBCE6",
    purposes={
        "training": "#26456e",
        "generation": "#3d7ca8",
        "scoring": "#7fb3c8",
        "reference": "#c3dbe0",
        "trials": "#d9a441",
    },
    shared=("#b8bcc4", "#8f959f"),
)
DARK = Theme(
    suffix="-dark",
    ground="#15171a",
    ink="#e6e8eb",
    quiet="#aab2bb",
    grid="#2c3138",
    hues=("#4CA3E0", "#F07E3A", "#2DBE91", "#C8539A", "#F0B93A", "#8FD3F7"),
    worse="#8A4A14",
    better="#1F5C94",
    purposes={
        "training": "#e4eef5",
        "generation": "#a9cbe0",
        "scoring": "#6ba0c2",
        "reference": "#3c6a92",
        "trials": "#d9a441",
    },
    shared=("#5a616b", "#7c848f"),
)
THEMES = (LIGHT, DARK)


class Style(NamedTuple):
    """Of a method, in every figure."""

    colour: str
    marker: str
    line: Any


@dataclass(frozen=True)
class Wording:
    """What is written on a figure, and with which fonts.

    Args:
        labels: of `LABELS`, in one language.
        names: a method's name -> as it is written in figures.
    """

    labels: Mapping[str, str]
    names: Mapping[str, str]
    families: tuple[str, ...]

    @classmethod
    def of(cls, findings: Findings, lang: str) -> Wording:
        """Without a font for the labels they are English; a name that no font here can write is its number.

        Raises:
            ValueError: a language that there are no labels in.
        """
        if lang not in LABELS:
            raise ValueError(f"lang={lang!r}: figures can be labelled in {', '.join(LABELS)}")
        fonts = fonts_for("".join(LABELS[lang].values()))
        if fonts.missing:
            logger.warning("no font here has Chinese characters, so figures are labelled in English: %s", ADVICE)
            lang = "en"
        names = [plain(name) for name in everyone(findings)]
        grades = [plain(each.grade) for each in findings.grades]
        fonts = fonts_for("".join([*LABELS[lang].values(), *names, *grades, "…"]))
        return cls(LABELS[lang], _writable(list(everyone(findings)), fonts.missing), fonts.families)


def everyone(findings: Findings) -> dict[str, None]:
    """Names of all that has numbers, methods first: a reward model ranks pairs and is no method."""
    names = [each.name for each in findings.methods]
    names += [point.name for point in findings.frontier]
    names += [moment.method for moment in findings.curves]
    names += [each.method for each in findings.best_of]
    names += [each.method for each in findings.lengths]
    names += [name for each in findings.histograms for name in each.shares]
    names += [name for each in findings.grades for name in each.by]
    return dict.fromkeys(names)


def plain(text: str) -> str:
    """In one line, and without what cannot be seen."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _writable(names: list[str], missing: Iterable[str]) -> dict[str, str]:
    """Names in short; the number that a method has in the table where it cannot be written, or others look the same."""
    short = {}
    for number, name in enumerate(names, 1):
        short[name] = _shortened(plain(name))
        if not short[name] or not set(missing).isdisjoint(name):
            logger.warning("no font here can write the name %r, so it is #%d in figures: %s", name, number, ADVICE)
            short[name] = f"#{number}"
    times = Counter(short.values())
    every = enumerate(short.items(), 1)
    return {name: text if times[text] == 1 else f"#{number} {text}" for number, (name, text) in every}


def _shortened(text: str) -> str:
    """Names tend to differ at their ends, so it is the middle that goes."""
    if cell_len(text) <= LONGEST:
        return text
    head, tail = text[: len(text) // 2], text[len(text) // 2 :]
    while cell_len(head) + cell_len(tail) >= LONGEST:
        head, tail = (head[:-1], tail) if cell_len(head) >= cell_len(tail) else (head, tail[1:])
    return f"{head}…{tail}"


@dataclass(frozen=True)
class Look:
    """What a plotting function needs beside the findings.

    Args:
        dpi: pixels of an inch.
    """

    theme: Theme
    wording: Wording
    styles: Mapping[str, Style]
    dpi: int = DPI

    @classmethod
    def of(cls, findings: Findings, wording: Wording, theme: Theme, *, dpi: int = DPI) -> Look:
        others = [name for name in everyone(findings) if name != findings.baseline]
        styles = {name: _style(number, theme) for number, name in enumerate(others)}
        return cls(theme, wording, styles | {findings.baseline: Style(theme.quiet, "d", LINES[1])}, dpi)

    def label(self, key: str, **values: Any) -> str:
        return self.wording.labels[key].format(**values)

    def metric(self, name: str) -> str:
        return self.wording.labels.get(f"metric.{name}", name)

    def name(self, method: str) -> str:
        return self.wording.names[method]

    def mark(self, method: str) -> dict[str, Any]:
        """For `Axes.plot` and its kin: a point of this method, without a line."""
        colour, marker, _ = self.styles[method]
        edge = {"markeredgecolor": colour, "markeredgewidth": 1.4}
        return {"color": colour, "marker": marker, "markersize": 7, "linestyle": "none", **edge}

    def figure(self, title: str, height: float) -> Figure:
        """Without pyplot, whose figures are global and whose windows a server does not have."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, height), dpi=self.dpi, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
        figure.suptitle(self.label(title), x=0.012, ha="left", fontsize=TEXT + 2)
        return figure

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Whatever the user's own settings of matplotlib are: these figures look the same everywhere."""
        from matplotlib import style

        with style.context(["default", self._settings()]):
            yield

    def _settings(self) -> dict[str, Any]:
        theme = self.theme
        coloured = {
            theme.ground: ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "hatch.color"),
            theme.ink: ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"),
            theme.quiet: ("axes.edgecolor", "xtick.color", "ytick.color"),
            theme.grid: ("grid.color",),
        }
        colours = {key: colour for colour, keys in coloured.items() for key in keys}
        return SETTINGS | colours | {"font.family": list(self.wording.families)}


def _style(number: int, theme: Theme) -> Style:
    around, hue = divmod(number, len(theme.hues))
    return Style(theme.hues[hue], MARKERS[number % len(MARKERS)], LINES[around % len(LINES)])

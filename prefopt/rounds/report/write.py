"""Writes the report over rounds: one page that needs nothing beside it, Markdown, tables, and the numbers as JSON."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ...compare.report import SETTINGS, THEMES, WIDTH, Table, Theme, as_table, escaped, fenced, write_tables
from ...utils import files
from ...utils.html import policy, sound
from ..results import Figure, RoundsResults
from .tables import tables
from .texts import text

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "compare" / "report"
"""Where a comparison's page has its style, and how it shows tables."""
FRAME = "main { max-width: 80rem; margin: 0 auto; padding: 0 1.5rem 5rem; }\n"
"""What a page without a list of its sections has in its place."""
PAGE, MARKDOWN, JSON = "rounds.html", "rounds.md", "rounds.json"
PICTURE = "rounds.png"


def write_rounds_report(results: RoundsResults, folder: Path, lang: str = "en") -> Path:
    """Write all forms of the report into a folder; returns the page's path."""
    made = tables(results, lang)
    pictures = {theme.suffix: plot_versions(results, lang, theme) for theme in THEMES}
    write_tables(made, folder)
    files.replace(folder / JSON, json.dumps(results.plain(), ensure_ascii=False, indent=1, allow_nan=False))
    files.replace(folder / PICTURE, pictures[""])
    files.replace(folder / MARKDOWN, sound(_markdown(results, made, lang)) + "\n")
    files.replace(folder / PAGE, sound(_page(results, made, pictures, lang)))
    return folder / PAGE


def _markdown(results: RoundsResults, made: Mapping[str, Table], lang: str) -> str:
    blocks = [f"# {escaped(results.title)}", f"![]({PICTURE})"]
    for table in made.values():
        blocks += [f"## {table.caption}", escaped(table.about), as_table(table)]
    if results.forgotten:
        newest = results.versions[-1].number
        blocks += [f"## {text(lang, 'forgotten')}", escaped(text(lang, "forgotten.about", newest=newest))]
        for each in results.forgotten:
            blocks += [
                fenced("\n".join(f"{turn['role']}: {turn['content']}" for turn in each.prompt)),
                escaped(text(lang, "then", number=each.version, reward=f"{each.reward_then:.2f}")),
                fenced(each.then),
                escaped(text(lang, "then", number=newest, reward=f"{each.reward_now:.2f}")),
                fenced(each.now),
            ]
    if results.pending:
        blocks += [f"## {text(lang, 'pending')}", *(f"- {escaped(line)}" for line in results.pending)]
    return "\n\n".join(blocks)


def _page(results: RoundsResults, made: Mapping[str, Table], pictures: dict[str, bytes], lang: str) -> str:
    style = Markup((SHARED / "page.css").read_text("utf-8") + FRAME)
    loader = FileSystemLoader([HERE, SHARED])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    encoded = {name: f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}" for name, png in pictures.items()}
    return environment.get_template("rounds.html").render(
        results=results,
        tables=list(made.values()),
        lang={"en": "en", "zh": "zh-Hans"}[lang],
        style=style,
        policy=policy(style, ""),
        light=encoded[""],
        dark=encoded["-dark"],
        text=lambda key, **values: text(lang, key, **values),
        newest=results.versions[-1].number,
    )


def plot_versions(results: RoundsResults, lang: str, theme: Theme) -> bytes:
    """The gold reward, and the score by each reward model, of every version: a PNG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    from ...compare.report import fonts_for

    lines: list[tuple[str, dict[int, Figure]]] = []
    gold = {version.number: version.gold for version in results.versions if version.gold is not None}
    if gold:
        lines.append((text(lang, "gold"), gold))
    for number in sorted({n for version in results.versions for n in version.scores}):
        label = text(lang, "score", number=number)
        lines.append((label, {v.number: v.scores[number] for v in results.versions if number in v.scores}))
    colours = {"text.color": theme.ink, "axes.labelcolor": theme.ink, "axes.edgecolor": theme.quiet}
    colours |= {"xtick.color": theme.ink, "ytick.color": theme.ink, "grid.color": theme.grid}
    fonts = {"font.family": list(fonts_for("".join(label for label, _ in lines)).families)}
    settings: Any = {**SETTINGS, **colours, **fonts}
    with rc_context(settings):
        canvas = Canvas(figsize=(WIDTH, 3.6), layout="constrained", facecolor=theme.ground)
        axes = canvas.add_subplot(facecolor=theme.ground)
        for place, (label, values) in enumerate(lines):
            _line(axes, label, values, theme, place, is_gold=bool(gold) and place == 0)
        axes.set_xticks([version.number for version in results.versions], [f"v{v.number}" for v in results.versions])
        if lines:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        buffer = io.BytesIO()
        canvas.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def _line(axes: Any, label: str, values: dict[int, Figure], theme: Theme, place: int, *, is_gold: bool) -> None:
    x = list(values)
    mean = [value.mean for value in values.values()]
    low = [value.mean - value.low for value in values.values()]
    high = [value.high - value.mean for value in values.values()]
    colour = theme.ink if is_gold else theme.hues[(place - 1) % len(theme.hues)]
    axes.errorbar(
        x, mean, yerr=[low, high], label=label, color=colour, marker="o", capsize=3, linewidth=2.2 if is_gold else 1.4
    )

"""The report as one HTML file that needs nothing else: no network, no other file; knows no method and no judge.

What models and users wrote is never markup: tables are escaped by the template, responses are JSON that a script puts
into the page as text, and the page's own policy lets nothing run but that script.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ...utils import files
from ...utils.html import in_script, policy, sound
from ...utils.visible import visible_parts
from . import tables
from .findings import Findings
from .metrics import METRICS
from .summary import verdict_lines, warning_lines
from .words import BCP47, Words

FILE = "report.html"
HERE = Path(__file__).parent
IN_TABLES = ("forest", "matrix")
"""Figures of what the page has as tables that can be sorted and read aloud."""
ORDER = ("frontier", "curves", "overoptimisation", "best_of", "distributions", "grades", "lengths", "cost")
TERMS = ("interval", "p", "effect", "detectable")

Figures = Mapping[str, tuple[Path | None, Path | None]]


@dataclass(frozen=True)
class Figure:
    """A picture within the page: data URIs for a light and a dark ground, the same one if there is but one."""

    key: str
    light: str
    dark: str


def write_page(findings: Findings, folder: Path, figures: Figures, lang: str = "en") -> Path:
    """Into report.html, whole or not at all.

    Args:
        figures: name -> PNGs for a light and a dark ground, either of which may be None.

    Raises:
        ValueError: no such language.
        KeyError: a figure, warning or metric that there is no text for.
    """
    words, findings = Words(lang), visible_parts(findings)
    style, script = (Markup((HERE / name).read_text("utf-8")) for name in ("page.css", "page.js"))
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.get_template("page.html").render(
        findings=findings,
        words=words,
        lang=BCP47[lang],
        style=style,
        script=script,
        policy=policy(style, script),
        samples=Markup(in_script(_samples(findings, words))),
        figures=_figures(figures),
        **_parts(findings, words),
    )
    path = folder / FILE
    files.replace(path, sound(text))
    return path


def _parts(findings: Findings, words: Words) -> dict[str, Any]:
    judges = [tables.judge(judge, words) for judge in findings.judges]
    return {
        "verdict": verdict_lines(findings, words),
        "serious": warning_lines(findings, words, serious=True),
        "notes": warning_lines(findings, words),
        "headline": tables.headline(findings, words),
        "matrix": tables.matrix(findings, words) if findings.pairings else None,
        "judges": judges,
        "judge_columns": list({column.key: column for table in judges for column in table.columns}.values()),
        "choices": tables.choices(findings, words) if findings.choices else None,
        "cost": tables.cost(findings, words),
        "metrics": tables.metrics(findings, words),
        "settings": tables.settings(findings, words),
        "glossary": _glossary(findings, words),
    }


def _figures(given: Figures) -> list[Figure]:
    """In the page's order, then any that it does not know; a name without a picture is no figure."""
    found = []
    for key in (*ORDER, *(name for name in given if name not in (*ORDER, *IN_TABLES))):
        light, dark = given.get(key, (None, None))
        if light is not None or dark is not None:
            both = [_data_uri(path) for path in (light or dark, dark or light) if path is not None]
            found.append(Figure(key, *both))
    return found


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _glossary(findings: Findings, words: Words) -> list[tuple[str, str]]:
    has = {name for method in findings.methods for name in method.metrics}
    keys = [f"metric.{name}" for name in METRICS if name in has] + [f"term.{name}" for name in TERMS]
    return [(words(key), words(f"{key}.about", level=findings.level)) for key in keys]


def _samples(findings: Findings, words: Words) -> dict[str, Any]:
    """What the script needs: the samples, how numbers are written, and its texts."""
    has = {name for sample in findings.samples for answer in sample.answers for name in answer.values}
    return {
        "samples": [asdict(sample) for sample in findings.samples],
        "methods": [method.name for method in findings.methods],
        "baseline": findings.baseline,
        "primary": findings.primary,
        "metrics": [_metric(name, words) for name in METRICS if name in has],
        "texts": _texts(words),
    }


def _metric(name: str, words: Words) -> dict[str, str | int]:
    """With the digits after the point; single responses are shown by no metric that is a share."""
    digits = int(METRICS[name].format.lstrip("+.")[0])
    return {"name": name, "label": words(f"metric.{name}"), "about": words(f"metric.{name}.about"), "digits": digits}


def _texts(words: Words) -> dict[str, str]:
    """Those of the sample browser; what the script is to put in stays as {name}."""
    kept = {name: f"{{{name}}}" for name in ("metric", "number", "found", "all", "count", "baseline")}
    names: Sequence[str] = [key for key in words.texts if key.startswith(("samples.", "role."))]
    return {key: words(key, **kept) for key in (*names, "baseline")}

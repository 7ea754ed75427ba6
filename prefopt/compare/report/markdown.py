"""The report as GitHub-flavoured Markdown beside its pictures, in short; knows no HTML and no numbers' meaning.

What models and users wrote stays text: characters that Markdown or HTML would act on are escaped, and responses stand
in fenced blocks whose fence is longer than any run of backticks in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import chain
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...utils import files
from ...utils.visible import visible_parts
from . import tables
from .findings import Answer, Failure, Findings, Sample
from .metrics import METRICS
from .number_format import number
from .page import ORDER, Figures, sound
from .summary import verdict_lines, warning_lines
from .tables import Table
from .words import Words

FILE = "report.md"
MOST_SAMPLES = 10
_ACTIVE = re.compile(r"([\\`*_{}\[\]<>#|~$&!])")


def write_markdown(findings: Findings, folder: Path, figures: Figures, lang: str = "en") -> Path:
    """Into report.md, whole or not at all; pictures by their path from there.

    Raises:
        ValueError: no such language.
    """
    words, findings = Words(lang), visible_parts(findings)
    blocks = chain(
        [f"# {escaped(findings.title)}"],
        _opening(findings, words),
        _numbers(findings, words),
        _pictures(figures, folder, words),
        _samples(findings, words),
        _closing(findings, words),
    )
    path = folder / FILE
    files.replace(path, sound("\n\n".join(blocks)) + "\n")
    return path


def escaped(text: str) -> str:
    """On one line, with nothing in it that Markdown or HTML acts on."""
    return _ACTIVE.sub(r"\\\1", " ".join(text.split()))


def fenced(text: str) -> str:
    """As it is, in a block."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def as_table(table: Table) -> str:
    """With mean and interval on one line."""
    names = [escaped(column.label) for column in table.columns]
    lines = [_row(names), _row(["---", *["---:"] * (len(names) - 1)])]
    for name, *cells in table.rows:
        first = escaped(f"{name.text} ({name.note})" if name.note else name.text)
        lines.append(_row([first, *(escaped(" ".join((each.text, each.note, each.detail))) for each in cells)]))
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _opening(findings: Findings, words: Words) -> Iterable[str]:
    first, *rest = map(escaped, verdict_lines(findings, words))
    yield f"**{first}**"
    yield " ".join(rest) if words.lang == "en" else "".join(rest)
    serious = warning_lines(findings, words, serious=True)
    if serious:
        yield f"**{words('section.warnings')}**"
        yield _listed(serious)


def _numbers(findings: Findings, words: Words) -> Iterable[str]:
    yield from _section("headline", words, as_table(tables.headline(findings, words)))
    if findings.pairings:
        yield from _section("matrix", words, as_table(tables.matrix(findings, words)))
    if findings.judges:
        yield from _section("judges", words, escaped(words("section.judges.about", baseline=findings.baseline)))
    for judge in findings.judges:
        table = tables.judge(judge, words)
        yield from (f"**{escaped(table.caption)}**", as_table(table))
    if findings.choices:
        yield from _section("choices", words, as_table(tables.choices(findings, words)))
    yield from _section("cost", words, words("section.cost.about"), as_table(tables.cost(findings, words)))


def _pictures(figures: Figures, folder: Path, words: Words) -> Iterable[str]:
    """All that there are, the two that are tables in the page first; GitHub shows the dark ones on a dark ground."""
    names = [name for name in ("forest", "matrix", *ORDER) if name in figures]
    names += [name for name in figures if name not in names]
    shown = [(name, figures[name]) for name in names if any(figures[name])]
    if shown:
        yield f"## {words('section.figures')}"
    for name, (light, dark) in shown:
        title = words(f"figure.{name}")
        yield f"**{title}.** {escaped(words(f'figure.{name}.about'))}"
        yield _picture(title, *(quote(relpath(path, folder)) if path else None for path in (light, dark)))


def _picture(title: str, light: str | None, dark: str | None) -> str:
    if light is None or dark is None:
        return f"![{title}]({light or dark})"
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    return f'<picture>{source}<img alt="{title}" src="{light}"></picture>'


def _samples(findings: Findings, words: Words) -> Iterable[str]:
    if not findings.samples:
        return
    about = words("samples.about", count=len(findings.samples), baseline=findings.baseline)
    yield from _section("samples", words, escaped(about))
    for place, sample in enumerate(findings.samples[:MOST_SAMPLES], 1):
        yield f"### {words('samples.prompt')} {place}"
        yield from _sample(sample, words)
    left = len(findings.samples) - MOST_SAMPLES
    if left > 0:
        yield words("report.more", left=left)


def _sample(sample: Sample, words: Words) -> Iterable[str]:
    for turn in sample.prompt:
        role = f"role.{turn['role']}"
        yield f"*{words(role) if role in words.texts else escaped(turn['role'])}*"
        yield fenced(turn["content"])
    for answer in sample.answers:
        yield _heading(answer, words)
        yield fenced(answer.text) if answer.text.strip() else words("samples.empty")


def _heading(answer: Answer, words: Words) -> str:
    """The method, how it fared, and its numbers."""
    outcome = {1.0: "won", 0.5: "tied", 0.0: "lost"}.get(-1.0 if answer.outcome is None else answer.outcome)
    said = [words(f"samples.{outcome}")] if outcome else []
    for name, metric in METRICS.items():
        if name in answer.values:
            said.append(f"{words(f'metric.{name}')} {number(answer.values[name], metric.format)}")
    if not answer.finished:
        said.append(words("samples.unfinished"))
    return f"**{escaped(answer.method)}** · {escaped(' · '.join(said))}" if said else f"**{escaped(answer.method)}**"


def _closing(findings: Findings, words: Words) -> Iterable[str]:
    yield from _section("metrics", words, as_table(tables.metrics(findings, words)))
    yield from _section("settings", words, as_table(tables.settings(findings, words)))
    if findings.failures:
        yield f"## {words('section.failures')}"
        yield _listed(_failure(each, words) for each in findings.failures)
    yield from _section("notes", words, _listed(warning_lines(findings, words)) or words("none"))
    yield from _section("provenance", words, _listed(_flat(findings.provenance)) or words("none"))


def _failure(failure: Failure, words: Words) -> str:
    seed = "" if failure.seed is None else f", {words('failure.seed', seed=failure.seed)}"
    return f"{failure.method}{seed}: {failure.reason}"


def _flat(values: Mapping[str, Any], before: str = "") -> Iterable[str]:
    """name: value, and for a mapping in it name.inner: value."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}: {value}"


def _section(name: str, words: Words, *blocks: str) -> Iterable[str]:
    yield f"## {words(f'section.{name}')}"
    yield from blocks


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)

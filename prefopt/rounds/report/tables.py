"""The tables of the report over rounds, as texts in one language; every form of the report is made of these."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...compare.report import Cell, Column, Table, number
from ..results import LEVEL, Figure, RoundsResults, Version
from .texts import text

MISSING = Cell("–")


def tables(results: RoundsResults, lang: str) -> dict[str, Table]:
    """Name -> table, those that have rows, in their order."""
    made = {
        "versions": _versions(results, lang),
        "scores": _scores(results, lang),
        "reward_models": _reward_models(results, lang),
        "sampling": _sampling(results, lang),
        "trainings": _trainings(results, lang),
    }
    return {name: table for name, table in made.items() if table.rows}


def measured(value: Figure | None, form: str = ".2f") -> Cell:
    """Mean and interval; a dash where there is no value."""
    if value is None:
        return MISSING
    if value.low == value.high:
        return Cell(number(value.mean, form), order=value.mean)
    note = f"[{number(value.low, form)}, {number(value.high, form)}]"
    return Cell(number(value.mean, form), note, order=value.mean, bounds=(value.low, value.high))


def on_one_line(cell: Cell) -> str:
    return f"{cell.text} {cell.note}".rstrip()


def versions_about(results: RoundsResults, lang: str) -> str:
    """What the table of versions is about, and which is best."""
    return text(
        lang,
        "versions.about",
        prompts=results.prompts,
        interval=f"{LEVEL:.0%}"[:-1],
        primary=text(lang, f"primary.{results.primary}"),
        best=results.best,
    )


def _table(lang: str, name: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], about: str = "") -> Table:
    return Table(text(lang, name), columns, rows, about=about or text(lang, f"{name}.about"))


def _column(lang: str, key: str, **values: Any) -> Column:
    return Column(key, text(lang, key, **values))


def _name(version: Version) -> Cell:
    return Cell(f"v{version.number}", order=version.number, is_number=False)


def _share(value: float | None) -> Cell:
    return MISSING if value is None else Cell(f"{value:.1%}", order=value)


def _versions(results: RoundsResults, lang: str) -> Table:
    kinds = ("gold", "kl_first", "kl_previous", "length")
    shown = [kind for kind in kinds if any(getattr(version, kind) is not None for version in results.versions)]
    wins = [name for name in ("v0", "previous", "best") if any(name in version.wins for version in results.versions)]
    files = sorted({file for version in results.versions for file in version.choices})
    columns = [_column(lang, key) for key in ("version", "trained", *shown, *(f"wins {name}" for name in wins))]
    columns += [_column(lang, "unfinished"), *(_column(lang, "choices", file=file) for file in files)]
    rows = [
        [
            _name(version),
            Cell(", ".join(str(each["method"]) for each in version.trained) or "–"),
            *(measured(getattr(version, kind), ".1f" if kind == "length" else ".2f") for kind in shown),
            *(measured(version.wins.get(name), ".0%") for name in wins),
            _share(version.unfinished),
            *(_share(version.choices.get(file)) for file in files),
        ]
        for version in results.versions
    ]
    return _table(lang, "versions", columns, rows, versions_about(results, lang))


def _scores(results: RoundsResults, lang: str) -> Table:
    numbers = sorted({n for version in results.versions for n in version.scores})
    columns = [_column(lang, "version"), *(_column(lang, "score", number=n) for n in numbers)]
    rows = [
        [_name(version), *(measured(version.scores.get(n)) for n in numbers)]
        for version in results.versions
        if version.scores
    ]
    return _table(lang, "scores", columns, rows)


def _reward_models(results: RoundsResults, lang: str) -> Table:
    groups = sorted({name for version in results.versions for name in version.reward_model})
    columns = [_column(lang, "round"), _column(lang, "labels")]
    columns += [
        _column(lang, "test pairs") if group == "test" else _column(lang, "labels of", number=group.split()[1])
        for group in groups
    ]
    rows = [
        [_name(v), _count(v), *(_accuracy(v, group) for group in groups)] for v in results.versions if v.reward_model
    ]
    return _table(lang, "reward_models", columns, rows)


def _count(version: Version) -> Cell:
    if version.labels is None:
        return MISSING
    count = version.labels["labels"] + version.labels["held_out"]
    return Cell(str(count), order=count)


def _accuracy(version: Version, group: str) -> Cell:
    found = version.reward_model.get(group)
    if found is None:
        return MISSING
    mean, error, count = found["accuracy"], found["error"], f"(n={found['pairs']})"
    if error is None or not math.isfinite(error):
        return Cell(f"{mean:.1%}", count, order=mean)
    half = 1.96 * error
    return Cell(f"{mean:.1%}", f"± {half:.1%} {count}", order=mean, bounds=(mean - half, mean + half))


def _sampling(results: RoundsResults, lang: str) -> Table:
    with_samples = [version for version in results.versions if version.sampled is not None]
    most = max((max(map(int, v.sampled["rewards"])) for v in with_samples if v.sampled), default=1)
    columns = [_column(lang, "round"), _column(lang, "temperature"), _column(lang, "best of", n=most)]
    columns += [_column(lang, "median of", n=most), _column(lang, "unfinished")]
    rows = []
    for version in with_samples:
        assert version.sampled is not None
        curves = version.sampled["rewards"][str(max(map(int, version.sampled["rewards"])))]
        both = (_bounds(curves[name]) for name in ("max", "median"))
        rows.append([_name(version), _temperature(version), *both, _share(version.sampled["unfinished"])])
    return _table(lang, "sampling", columns, rows)


def _temperature(version: Version) -> Cell:
    if version.temperature is not None:
        best, (low, high) = version.temperature["best"], version.temperature["plausible"]
        return Cell(f"{best:g}", f"[{low:g}, {high:g}]", order=best, bounds=(low, high))
    if version.sampled is None:
        return MISSING
    return Cell(f"{version.sampled['temperature']:g}", order=version.sampled["temperature"])


def _bounds(values: Sequence[float | None]) -> Cell:
    mean, low, high = values
    if mean is None:
        return MISSING
    return measured(Figure(mean, mean if low is None else low, mean if high is None else high))


def _sampled_ids(encoding: Mapping[str, int] | None) -> Cell:
    """How many responses were trained on by sampled ids that are not their text's, and how many by their text."""
    if encoding is None:
        return MISSING
    return Cell(f"{encoding.get('sampled_ids_differ', 0):,} / {encoding.get('sampled_ids_unused', 0):,}")


def _trainings(results: RoundsResults, lang: str) -> Table:
    names = ("version", "method", "rows", "sampled ids", "from", "reference", "first loss")
    rows = [
        [
            _name(version),
            Cell(str(each["method"])),
            Cell(str(each.get("rows", "–")), order=each.get("rows")),
            _sampled_ids(each.get("encoding")),
            Cell(str(each.get("init", "–")).partition("/")[0]),
            Cell(str(each.get("reference", "–")).partition("/")[0]),
            MISSING if each.get("first loss") is None else Cell(f"{each['first loss']:.4f}", order=each["first loss"]),
        ]
        for version in results.versions
        for each in version.trained
    ]
    return _table(lang, "trainings", [_column(lang, name) for name in names], rows)

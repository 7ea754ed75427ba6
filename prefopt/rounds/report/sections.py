"""What the report over rounds shows: its tables, as texts in one language; every form of it is made of these."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...compare.report import number
from ..results import LEVEL, Figure, RoundsResults, Version
from .texts import text


@dataclass(frozen=True)
class Section:
    """A table with a heading, and a sentence that says what it shows. The first cell of a row is its name."""

    key: str
    title: str
    about: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def sections(results: RoundsResults, lang: str) -> list[Section]:
    """The sections that have rows, in their order."""
    made = [
        _versions(results, lang),
        _scores(results, lang),
        _reward_models(results, lang),
        _sampling(results, lang),
        _trainings(results, lang),
    ]
    return [section for section in made if section.rows]


def figure_text(value: Figure | None, form: str = ".2f") -> str:
    """Mean and interval; a dash where there is none."""
    if value is None:
        return "–"
    if value.low == value.high:
        return number(value.mean, form)
    return f"{number(value.mean, form)} [{number(value.low, form)}, {number(value.high, form)}]"


def _versions(results: RoundsResults, lang: str) -> Section:
    kinds = ("gold", "kl_first", "kl_previous", "length")
    shown = [kind for kind in kinds if any(getattr(version, kind) is not None for version in results.versions)]
    wins = [name for name in ("v0", "previous", "best") if any(name in version.wins for version in results.versions)]
    files = sorted({file for version in results.versions for file in version.choices})
    primary = text(lang, f"primary.{results.primary}")
    columns = [text(lang, "version"), text(lang, "trained"), *(text(lang, kind) for kind in shown)]
    columns += [text(lang, f"wins {name}") for name in wins]
    columns += [text(lang, "unfinished"), *(text(lang, "choices", file=file) for file in files)]
    rows = []
    for version in results.versions:
        row = [f"v{version.number}", ", ".join(str(each["method"]) for each in version.trained) or "–"]
        row += [figure_text(getattr(version, kind), ".1f" if kind == "length" else ".2f") for kind in shown]
        row += [figure_text(version.wins.get(name), ".0%") for name in wins]
        row += [
            f"{version.unfinished:.1%}",
            *(f"{version.choices[f]:.1%}" if f in version.choices else "–" for f in files),
        ]
        rows.append(row)
    about = text(
        lang,
        "versions.about",
        prompts=results.prompts,
        interval=f"{LEVEL:.0%}"[:-1],
        primary=primary,
        best=results.best,
    )
    return Section("versions", text(lang, "versions"), about, columns, rows)


def _scores(results: RoundsResults, lang: str) -> Section:
    numbers = sorted({n for version in results.versions for n in version.scores})
    columns = [text(lang, "version"), *(text(lang, "score", number=n) for n in numbers)]
    rows = [
        [f"v{version.number}", *(figure_text(version.scores.get(n)) for n in numbers)]
        for version in results.versions
        if version.scores
    ]
    return Section("scores", text(lang, "scores"), text(lang, "scores.about"), columns, rows)


def _reward_models(results: RoundsResults, lang: str) -> Section:
    groups = sorted({name for version in results.versions for name in version.reward_model})
    labels = [text(lang, "test pairs") if g == "test" else text(lang, "labels of", number=g.split()[1]) for g in groups]
    columns = [text(lang, "round"), text(lang, "labels"), *labels]
    rows = [
        [f"v{v.number}", _count(v), *(_accuracy(v, group) for group in groups)]
        for v in results.versions
        if v.reward_model
    ]
    return Section("reward_models", text(lang, "reward_models"), text(lang, "reward_models.about"), columns, rows)


def _count(version: Version) -> str:
    return "–" if version.labels is None else str(version.labels["labels"] + version.labels["held_out"])


def _accuracy(version: Version, group: str) -> str:
    found = version.reward_model.get(group)
    if found is None:
        return "–"
    error = found["error"]
    spread = "" if error is None or not math.isfinite(error) else f" ± {1.96 * error:.1%}"
    return f"{found['accuracy']:.1%}{spread} (n={found['pairs']})"


def _sampling(results: RoundsResults, lang: str) -> Section:
    with_samples = [version for version in results.versions if version.sampled is not None]
    most = max((max(map(int, v.sampled["rewards"])) for v in with_samples if v.sampled), default=1)
    names = (text(lang, "best of", n=most), text(lang, "median of", n=most))
    columns = [text(lang, "round"), text(lang, "temperature"), *names, text(lang, "unfinished")]
    rows = []
    for version in with_samples:
        assert version.sampled is not None
        n = str(max(map(int, version.sampled["rewards"])))
        curves = version.sampled["rewards"][n]
        rows.append(
            [
                f"v{version.number}",
                _temperature(version),
                *(_bounds(curves[name]) for name in ("max", "median")),
                f"{version.sampled['unfinished']:.1%}",
            ]
        )
    return Section("sampling", text(lang, "sampling"), text(lang, "sampling.about"), columns, rows)


def _temperature(version: Version) -> str:
    if version.temperature is not None:
        low, high = version.temperature["plausible"]
        return f"{version.temperature['best']:g} [{low:g}, {high:g}]"
    return "–" if version.sampled is None else f"{version.sampled['temperature']:g}"


def _bounds(values: Sequence[float | None]) -> str:
    mean, low, high = values
    if mean is None or low is None or high is None:
        return "–" if mean is None else number(mean, ".2f")
    return figure_text(Figure(mean, low, high))


def _sampled_ids(encoding: Mapping[str, int] | None) -> str:
    """How many responses were trained on by sampled ids that are not their text's, and how many by their text."""
    if encoding is None:
        return "–"
    return f"{encoding.get('sampled_ids_differ', 0):,} / {encoding.get('sampled_ids_unused', 0):,}"


def _trainings(results: RoundsResults, lang: str) -> Section:
    names = ("method", "rows", "sampled ids", "from", "reference", "first loss")
    columns = [text(lang, "version"), *(text(lang, name) for name in names)]
    rows = [
        [
            f"v{version.number}",
            str(each["method"]),
            str(each.get("rows", "–")),
            _sampled_ids(each.get("encoding")),
            str(each.get("init", "–")).partition("/")[0],
            str(each.get("reference", "–")).partition("/")[0],
            "–" if each.get("first loss") is None else f"{each['first loss']:.4f}",
        ]
        for version in results.versions
        for each in version.trained
    ]
    return Section("trainings", text(lang, "trainings"), text(lang, "trainings.about"), columns, rows)

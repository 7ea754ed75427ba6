"""The account of an import: what was read, what was left out and why, and how far the labels can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from ..data.report import LoadReport
from .agreement import Agreement, agreement
from .judgment import SIDES, STRENGTH, Judgment
from .pairs import LabelPair
from .store import Added
from .votes import FIRST, NEITHER, SECOND, Opinion

SIDE_VALUES = (SECOND, NEITHER, FIRST)
GRADE_VALUES = tuple(range(-len(STRENGTH), len(STRENGTH) + 1))


@dataclass(frozen=True)
class Share:
    """So many of so many, with Wilson's 95 % interval; without any there is none."""

    hits: int
    count: int
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, hits: int, count: int) -> Share:
        if not count:
            return cls(0, 0)
        interval = stats.binomtest(hits, count).proportion_ci(method="wilson")
        return cls(hits, count, float(interval.low), float(interval.high))

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return "by none"
        return f"{self.hits / self.count:.0%} of {self.count:,} [{self.low:.0%}, {self.high:.0%}]"


@dataclass(frozen=True)
class AnnotatorReport:
    """What one annotator did.

    Args:
        judgments: all of them, skips too.
        choices: how many of each of `CHOICES`.
        shown_as_a: the share of preferences that are for what was shown as A: one half without a position bias.
            Judgments of a pair in both orders cancel, so the interval is wide rather than narrow.
        repeated: pairs that were judged in both orders.
        contradicted: those of them that were not judged alike.
        flipped: those whose winner was the same position in both orders.
    """

    judgments: int
    choices: dict[str, int]
    shown_as_a: Share
    repeated: int
    contradicted: int
    flipped: int


@dataclass
class LabelReport:
    """The account of an import.

    Args:
        pairs: how many different pairs there are; `shown` counts their repeats too.
        labelled: how many pairs somebody has judged, not counting skips.
        added: what this import did, see `Added`.
        unlabelled: rows of the files that say nothing yet.
        left_out: reason -> how many rows of the files were not used; `places` has the first few of each.
        noted: what is odd of rows that were used, likewise.
        rows: how many preferences came out.
        without: why pairs that were judged gave no row.
        annotators: what each of them did.
        agreement_on_sides: Gwet's AC1, and alpha for unordered values: which candidate, or neither.
        agreement_on_grades: AC2, and alpha for ordered values: from 4 for one candidate to 4 for the other.
    """

    pairs: int
    shown: int
    labelled: int
    added: Added
    unlabelled: int
    left_out: dict[str, int]
    noted: dict[str, int]
    places: dict[str, list[str]]
    rows: int = 0
    without: dict[str, int] = field(default_factory=dict)
    annotators: dict[str, AnnotatorReport] = field(default_factory=dict)
    shown_as_a: Share = field(default_factory=lambda: Share(0, 0))
    agreement_on_sides: Agreement | None = None
    agreement_on_grades: Agreement | None = None

    def to_dict(self) -> dict[str, Any]:
        """The account as plain values, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The account for people, a line for each thing."""
        added = self.added
        lines = [
            f"{added.new:,} new labels, {added.changed:,} changed, {added.older:,} older than what is there, "
            f"{added.known:,} known",
            f"{self.labelled:,} of {self.pairs:,} pairs are labelled, {self.rows:,} preferences",
        ]
        if self.unlabelled:
            lines.append(f"not labelled yet in these files: {self.unlabelled:,}")
        for word, counts in (("left out", self.left_out), ("noted", self.noted)):
            lines += [f"{word} {count:,}: {why} ({', '.join(self.places[why])})" for why, count in counts.items()]
        if self.without:
            lines.append(f"pairs without a preference: {_counted(self.without)}")
        for name, each in self.annotators.items():
            lines.append(f"{name}: {each.judgments:,} labels ({_counted(each.choices)}); A preferred {each.shown_as_a}")
            if each.repeated:
                both = f"{each.repeated:,} in both orders, {each.contradicted:,} not alike"
                lines.append(f"{name}: {both}, {each.flipped:,} the same position both times")
        lines.append(f"A preferred {self.shown_as_a}; 50 % is no leaning")
        for what, name, found in (
            ("sides", "AC1", self.agreement_on_sides),
            ("grades", "AC2", self.agreement_on_grades),
        ):
            if found:
                lines.append(f"agreement on {what}, {found.units:,} pairs: {_agreement(name, found)}")
        return lines


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in counts.items())


def _agreement(name: str, found: Agreement) -> str:
    alpha = "not known" if found.alpha is None else f"{found.alpha:.2f}"
    return f"Gwet's {name} {found.ac:.2f} [{found.low:.2f}, {found.high:.2f}], Krippendorff's alpha {alpha}"


def report_on(
    pairs: Sequence[LabelPair],
    judgments: Sequence[Judgment],
    opinions: Sequence[Opinion],
    added: Added,
    reading: LoadReport,
    unlabelled: int,
) -> LabelReport:
    """The account of all that a folder holds, and of the files that were just read."""
    return LabelReport(
        pairs=len({pair.pair for pair in pairs}),
        shown=len(pairs),
        labelled=len({opinion.pair.pair for opinion in opinions}),
        added=added,
        unlabelled=unlabelled,
        left_out=dict(reading.dropped),
        noted=dict(reading.noted),
        places=dict(reading.examples),
        annotators=_annotators(judgments, opinions),
        shown_as_a=_shown_as_a(judgments),
        agreement_on_sides=agreement(_ratings(opinions, _side), SIDE_VALUES, ordered=False),
        agreement_on_grades=agreement(_ratings(opinions, _graded), GRADE_VALUES, ordered=True),
    )


def _annotators(judgments: Sequence[Judgment], opinions: Sequence[Opinion]) -> dict[str, AnnotatorReport]:
    found = {}
    for name in sorted({judgment.annotator for judgment in judgments}):
        own = [judgment for judgment in judgments if judgment.annotator == name]
        twice = [each for each in opinions if each.annotator == name and len(each.judgments) > 1]
        found[name] = AnnotatorReport(
            judgments=len(own),
            choices=dict(sorted(Counter(judgment.choice for judgment in own).items())),
            shown_as_a=_shown_as_a(own),
            repeated=len(twice),
            contradicted=sum(each.reason == "contradicted" for each in twice),
            flipped=sum(each.flipped for each in twice),
        )
    return found


def _shown_as_a(judgments: Sequence[Judgment]) -> Share:
    sides = [judgment.choice for judgment in judgments if judgment.choice in SIDES]
    return Share.of(sides.count("a"), len(sides))


def _side(opinion: Opinion) -> float:
    return opinion.sides[0]


def _graded(opinion: Opinion) -> float:
    """NaN where a preference has no grade."""
    first, side = opinion.judgments[0], opinion.sides[0]
    if side == NEITHER:
        return 0.0
    return side * STRENGTH[first.grade] if first.grade else float("nan")


def _ratings(opinions: Sequence[Opinion], value: Any) -> np.ndarray:
    """[pairs, annotators]: the first judgment of each, so that a repeat does not count as a second pair."""
    names = sorted({opinion.annotator for opinion in opinions})
    rows: dict[str, np.ndarray] = {}
    for opinion in opinions:
        row = rows.setdefault(opinion.pair.pair, np.full(len(names), np.nan))
        row[names.index(opinion.annotator)] = value(opinion)
    return np.stack(list(rows.values())) if rows else np.empty((0, 0))

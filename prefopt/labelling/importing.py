"""`import_labels`: files that annotators sent back, into judgments that stay and rows that trainers take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.records import DataError
from ..data.report import LoadReport
from .judgment import SIDES, Judgment, NotUnderstood, check_words, understood
from .read import FIELDS, Said, read_labels
from .report import LabelReport, report_on
from .store import Judgments, read_key
from .votes import opinions_of, rows_of


@dataclass(frozen=True)
class Labels:
    """What a folder of labels says so far: rows of pairs, and the account of how they came about."""

    rows: list[dict[str, Any]]
    report: LabelReport


def import_labels(
    folder: str | Path,
    files: Sequence[str | Path] = (),
    *,
    several: str = "majority",
    weights: Mapping[str, float] | None = None,
    annotator: str | None = None,
    columns: Mapping[str, str] | None = None,
    words: Mapping[str, str] | None = None,
) -> Labels:
    """Add what files say to the judgments of a folder, and make rows of all that it has.

    Files may cover a part of the pairs, come several times, and overlap: a judgment counts once, and of several by one
    annotator on one pair the last. One process at a time imports into a folder; killed, it has all of the files or
    none, and is to be run again.

    Args:
        folder: where `export_labels` wrote.
        files: saved by the page; csv, jsonl or xlsx with `pair_id` and `choice`; or exports of Label Studio (JSON,
            JSON_MIN, CSV, TSV) or Argilla (`to_list(flatten=True)`, `to_json`, `to_datasets`). None: rows of what is
            there.
        several, weights: what becomes of a pair that several annotators judged, see `votes.rows_of`.
        annotator: who labelled, where a file does not say it.
        columns: our name -> the file's, of `FIELDS`: {"choice": "my_question"}.
        words: what other labels mean, in words of `LABELS`: {"7": "B slightly"}.

    Raises:
        DataError: the folder or a file is not what it should be, or nobody is named as the annotator.
        ValueError: an argument that is none.
    """
    folder = Path(folder)
    if other := sorted(set(columns or ()) - set(FIELDS)):
        raise ValueError(f"columns: {', '.join(other)}: known are {', '.join(FIELDS)}")
    check_words(words)
    pairs = read_key(folder)
    reading = LoadReport(str(folder))
    reader = _Reader({pair.id for pair in pairs}, reading, annotator, words)
    judgments = [each for path in files for each in reader.judgments(read_labels(Path(path), reading, columns))]
    kept = Judgments(folder)
    added = kept.add(judgments)
    opinions = opinions_of(pairs, kept.current)
    labelled = {judgment.annotator for judgment in kept.current}
    for name in sorted(set(weights or ()) - labelled):
        reading.note("a weight for somebody who has not labelled", name)
    report = report_on(pairs, kept.current, opinions, added, reading, reader.unlabelled)
    rows, report.without = rows_of(opinions, several, weights)
    report.rows = len(rows)
    return Labels(rows, report)


class _Reader:
    """Turns what files say into judgments, and counts what is none."""

    def __init__(self, ids: set[str], report: LoadReport, annotator: str | None, words: Mapping[str, str] | None):
        self.ids, self.report, self.annotator, self.words = ids, report, annotator, words
        self.unlabelled = 0

    def judgments(self, said: Iterator[Said]) -> Iterator[Judgment]:
        for each in said:
            judgment = self._judgment(each)
            if judgment is not None:
                yield judgment

    def _judgment(self, said: Said) -> Judgment | None:
        if said.pair_id not in self.ids:
            self.report.drop("unknown id: of another export", said.place, said.pair_id)
            return None
        if said.is_empty:
            self.unlabelled += 1
            return None
        try:
            meant = understood(said.choice, said.grade, self.words)
        except NotUnderstood as error:
            reason = "half-filled: no choice" if said.choice in (None, "") else "not understood"
            self.report.drop(reason, said.place, str(error))
            return None
        if meant is None:
            self.report.drop("half-filled: no choice", said.place)
            return None
        annotator = said.annotator or self.annotator
        if not annotator:
            raise DataError(
                f"{said.place}: who labelled this is not said: fill the annotator's column, or give annotator=NAME "
                "(--annotator NAME) for all that say nothing"
            )
        choice, grade = meant
        if grade is None and choice in SIDES:
            self.report.note("a preference without a grade", said.place)
        return Judgment(said.pair_id, annotator, choice, grade, said.note, said.time)

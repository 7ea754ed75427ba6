"""A folder of labels: the key that says what was shown, and every judgment that was ever imported.

key.jsonl         what stood on which side, for nobody who labels
annotate/         what annotators get: a page, and the same pairs for spreadsheets and other tools
judgments.jsonl   all that annotators said, in the order in which it was imported; only ever appended to
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..candidates.candidate import Candidate
from ..data.records import DataError
from ..utils import jsonl
from .judgment import Judgment
from .pairs import LabelPair

KEY = "key.jsonl"
JUDGMENTS = "judgments.jsonl"
ANNOTATE = "annotate"


def write_key(folder: Path, pairs: Sequence[LabelPair]) -> None:
    """Keep what stands on which side. A folder takes more pairs, with those that it has.

    Raises:
        DataError: the folder holds pairs that are not among these.
    """
    known = {pair.id for pair in read_key(folder)} if (folder / KEY).exists() else set()
    if lost := known - {pair.id for pair in pairs}:
        raise DataError(
            f"{folder / KEY}: {len(lost)} of its {len(known)} pairs are not among the {len(pairs)} to export, and "
            "labels of them would be lost: take another folder, or the same candidates, seed and more pairs"
        )
    jsonl.replace(folder / KEY, [_record(pair) for pair in pairs])


def _record(pair: LabelPair) -> dict[str, Any]:
    return {
        "id": pair.id,
        "pair": pair.pair,
        "first": pair.first.record(),
        "second": pair.second.record(),
        "swapped": pair.swapped,
        "repeat": pair.repeat,
    }


def read_key(folder: Path) -> list[LabelPair]:
    """The pairs of a folder, in the order in which they are shown.

    Raises:
        DataError: there is no key, or it is none.
    """
    path = folder / KEY
    if not path.is_file():
        raise DataError(f"{path}: no such file: {folder} is no folder that `prefopt label export` wrote")
    try:
        return [
            LabelPair(**record | {"first": Candidate.of(record["first"]), "second": Candidate.of(record["second"])})
            for record in jsonl.read(path)
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: not what `prefopt label export` writes ({error}): export again") from error


@dataclass
class Added:
    """What an import did.

    Args:
        new: judgments of pairs that their annotator had not judged.
        changed: those that stand in the place of an earlier one.
        older: those that came after a later one of the same annotator, and do not count.
        known: those that were there.
    """

    new: int = 0
    changed: int = 0
    older: int = 0
    known: int = 0


class Judgments:
    """All judgments of a folder. Of several by an annotator on one id the last counts; none is ever deleted."""

    def __init__(self, folder: Path):
        self.path = folder / JUDGMENTS
        self._current: dict[tuple[str, str], Judgment] = {}
        self._seen: set[Judgment] = set()
        for record in jsonl.read(self.path):
            self._take(Judgment(**record))

    @property
    def current(self) -> list[Judgment]:
        """What counts, in the order in which it was first said."""
        return list(self._current.values())

    def add(self, judgments: Iterable[Judgment]) -> Added:
        """Put judgments on disk; those that are there already change nothing.

        A judgment with a time that is earlier than that of the current one is kept and does not count.

        Raises:
            OSError: as on a full disk; what was there is intact, and nothing was added.
        """
        added = Added()
        lines: list[Judgment] = []
        before = dict(self._current), set(self._seen)
        for judgment in judgments:
            current = self._current.get((judgment.annotator, judgment.id))
            if judgment == current or (judgment.time and judgment in self._seen):
                added.known += 1
                continue
            lines.append(judgment)
            counts = self._take(judgment)
            added.new += current is None
            added.changed += current is not None and counts
            added.older += not counts
        try:
            jsonl.append(self.path, [judgment.record() for judgment in lines])
        except BaseException:
            self._current, self._seen = before
            raise
        return added

    def _take(self, judgment: Judgment) -> bool:
        """Remember a judgment; whether it counts, as the last one of its annotator on its id."""
        key = judgment.annotator, judgment.id
        current = self._current.get(key)
        self._seen.add(judgment)
        counts = current is None or not (current.time and judgment.time) or judgment.time >= current.time
        if counts:
            self._current[key] = judgment
        return counts

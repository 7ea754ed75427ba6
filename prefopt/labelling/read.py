"""Reads what annotators send back: the page's file, spreadsheets, Label Studio's and Argilla's exports.

The shapes of the latter are those that label-studio-sdk 2.1 (its converter: JSON, JSON_MIN, CSV, TSV) and argilla 2.8
write. All become `Said`: words with the place where they stand. What they mean is decided in `judgment.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..data.reading import read_rows
from ..data.records import DataError
from ..data.report import LoadReport
from ..utils.extras import require
from .export import FORMAT
from .texts import COLUMNS

SKIPPED, DRAFT = "skip", "(a draft)"
RESPONSES = ".responses"
"""How a column of Argilla's flat export ends."""
FIELDS = ("pair_id", "choice", "grade", "note", "annotator", "time")
"""What is read of a label, by our names; files may have others, see `import_labels`."""
LABEL_STUDIO_VALUES = ("choices", "selected", "rating", "text")
"""Where a Label Studio result has its value, by its type: https://labelstud.io/guide/export"""


@dataclass(frozen=True)
class Said:
    """What stands in a file of one pair, by one annotator, in the words of the file."""

    place: str
    pair_id: str
    choice: Any = None
    grade: Any = None
    note: str = ""
    annotator: str | None = None
    time: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nobody has said anything of the pair."""
        return all(value in (None, "") for value in (self.choice, self.grade, self.note))


def read_labels(path: Path, report: LoadReport, columns: Mapping[str, str] | None = None) -> Iterator[Said]:
    """Yield what a file says, of every pair that it speaks of.

    Args:
        report: counts what is no row at all.
        columns: our name -> the file's, where they are called otherwise.

    Raises:
        DataError: the file cannot be read, or is none of these.
    """
    names = {name: (columns or {}).get(name, name) for name in FIELDS}
    for place, row in _rows(path, report):
        if row.get("format") == FORMAT:
            yield from _of_page(row, place)
        elif isinstance(row.get("annotations"), list) and isinstance(row.get("data"), Mapping):
            yield from _of_label_studio(row, place, names)
        elif isinstance(row.get("fields"), Mapping) and isinstance(row.get("responses"), Mapping):
            report.note("Argilla's nested export does not say which answers were drafts or discarded", place)
            yield from _of_argilla(row["responses"], _argilla_id(row), place, names)
        elif any(name.endswith(RESPONSES) for name in row):
            yield from _of_argilla(_nested(row), _argilla_id(row), place, names)
        else:
            yield _of_table(row, place, names)


def _rows(path: Path, report: LoadReport) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix.lower() == ".xlsx":
        return _of_workbook(path)
    return read_rows(path, "train", report)


def _of_workbook(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a workbook's first sheet."""
    require("labels", ("openpyxl",), path.name)
    from openpyxl import load_workbook

    try:
        book = load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # of many kinds: of the archive, of XML, of the file
        raise DataError(f"{path}: not a workbook that can be read ({error}): save it as csv in UTF-8") from error
    try:
        rows = book.worksheets[0].iter_rows(values_only=True)
        names = [str(name) if name is not None else "" for name in next(rows, ())]
        for number, cells in enumerate(rows, 2):
            if any(cell is not None for cell in cells):
                yield f"{path}:{number}", {name: cell for name, cell in zip(names, cells, strict=False) if name}
    finally:
        book.close()


def _of_page(content: Mapping[str, Any], place: str) -> Iterator[Said]:
    labels = content.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, Mapping) and "id" in label for label in labels):
        raise DataError(f"{place}: a file of the labelling page without its labels: save it there again")
    for number, label in enumerate(labels, 1):
        yield Said(
            f"{place}:label {number}",
            str(label["id"]),
            label.get("choice"),
            label.get("grade"),
            str(label.get("note") or ""),
            content.get("annotator") or None,
            time_of(label.get("time")),
        )


def _of_label_studio(task: Mapping[str, Any], place: str, names: Mapping[str, str]) -> Iterator[Said]:
    pair_id = _pair_id(task["data"], place, names)
    for annotation in task["annotations"]:
        by = annotation.get("completed_by")
        by = by.get("email") or by.get("id") if isinstance(by, Mapping) else by
        values = {result["from_name"]: _label_studio_value(result["value"]) for result in annotation.get("result", ())}
        said = {name: values.get(names[name]) for name in ("choice", "grade", "note")}
        if annotation.get("was_cancelled"):
            said["choice"], said["grade"] = SKIPPED, None
        yield Said(
            f"{place}:annotation {annotation.get('id')}",
            pair_id,
            said["choice"],
            said["grade"],
            str(said["note"] or ""),
            None if by is None else str(by),
            time_of(annotation.get("updated_at") or annotation.get("created_at")),
        )


def _label_studio_value(value: Any) -> Any:
    """What a result says: the one choice, the side, the number of stars, the text; of a table, where it is JSON."""
    if isinstance(value, str) and value.startswith("[{"):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, list) and len(value) == 1:
        return _label_studio_value(value[0])
    if isinstance(value, Mapping):
        found = next((value[name] for name in LABEL_STUDIO_VALUES if name in value), value)
        return found if isinstance(found, Mapping) else _label_studio_value(found)
    return value


def _argilla_id(record: Mapping[str, Any]) -> str:
    """The pair's id: the record's own, or where a person made the records otherwise, of its metadata or fields."""
    places = [record, *(record[name] for name in ("metadata", "fields") if isinstance(record.get(name), Mapping))]
    return str(next((place["pair_id"] for place in places if place.get("pair_id")), record.get("id"))).strip()


def _nested(record: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Answers of Argilla's flat form, with a column each for values, users and statuses, in its nested form."""
    questions = [name.removesuffix(RESPONSES) for name in record if name.endswith(RESPONSES)]
    return {
        question: [
            {"value": value, "user_id": user, "status": status}
            for value, user, status in zip(
                *(record.get(f"{question}{RESPONSES}{part}") or () for part in ("", ".users", ".status")), strict=True
            )
        ]
        for question in questions
    }


def _of_argilla(responses: Mapping[str, Any], pair_id: str, place: str, names: Mapping[str, str]) -> Iterator[Said]:
    """One `Said` for each user. Who discards a record skips the pair; a draft is half-filled, whatever is in it."""
    by_user: dict[str, dict[str, Any]] = {}
    for name in ("choice", "grade", "note"):
        for answer in responses.get(names[name]) or ():
            said = by_user.setdefault(str(answer["user_id"]), {})
            said[name] = answer["value"]
            said["status"] = answer.get("status") or said.get("status")
    for user, said in by_user.items():
        choice, note = said.get("choice"), str(said.get("note") or "")
        if said["status"] == "discarded":
            yield Said(place, pair_id, SKIPPED, None, note, user)
        elif said["status"] == "draft":
            yield Said(place, pair_id, None, None, note or DRAFT, user)
        else:
            yield Said(place, pair_id, choice, said.get("grade"), note, user)


def _of_table(row: Mapping[str, Any], place: str, names: Mapping[str, str]) -> Said:
    """A row of a spreadsheet, or of Label Studio's flat exports, which have their own columns for the time."""
    times = ("updated_at", "created_at")
    time = next((row[name] for name in (names["time"], *times) if row.get(name)), None)
    cells = {name: _label_studio_value(_cell(row, name, names)) for name in ("choice", "grade", "note", "annotator")}
    return Said(
        place,
        _pair_id(row, place, names),
        cells["choice"],
        cells["grade"],
        str(cells["note"] or "").strip(),
        str(cells["annotator"] or "").strip() or None,
        time_of(time),
    )


def _cell(row: Mapping[str, Any], name: str, names: Mapping[str, str]) -> Any:
    """A cell by the name that the caller gave, or by ours in any language."""
    if names[name] != name:
        return row.get(names[name])
    known = (texts[name] for texts in COLUMNS.values() if name in texts)
    return next((row[each] for each in known if row.get(each) is not None), None)


def _pair_id(row: Mapping[str, Any], place: str, names: Mapping[str, str]) -> str:
    found = _cell(row, "pair_id", names)
    if found is None:
        raise DataError(
            f"{place}: no column {names['pair_id']!r}, which says of which pair this is; it has {', '.join(row)}. Give "
            "columns, as pair_id=NAME, if it is called otherwise"
        )
    return str(found).strip()


def time_of(value: Any) -> str | None:
    """A time as ISO 8601 in UTC, to the millisecond; one without a zone is taken for UTC, and no time for None."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return aware.isoformat(timespec="milliseconds").replace("+00:00", "Z")

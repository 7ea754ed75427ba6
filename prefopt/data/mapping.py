"""Columns under names of a user's own: which of them is the prompt, which the answers, and so on."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from ..utils.names import hint
from .adapters.columns import CONVERSATIONS, HISTORY, LABELS, QUESTIONS, SYSTEM, TEMPLATE_INPUTS
from .adapters.formats import JUDGED, LISTS, NAMED, PAIRS, TWINS
from .adapters.rankings import RANK_LISTS, SCORE_LISTS
from .raw_rows import is_null
from .reading import Located, Source, read_rows
from .records import DataError
from .report import LoadReport

LOOKED_AT = 64
"""How many rows are looked at for the columns that a mapping names."""

TARGETS = tuple(
    dict.fromkeys(
        (
            *("prompt", "chosen", "rejected", "response", "responses", "completion", "output", "answer"),
            *("margin", "grade", "score_chosen", "score_rejected", "finished", "finish_reason", "text"),
            *(*QUESTIONS, *CONVERSATIONS, *SYSTEM, *HISTORY, *LABELS, *SCORE_LISTS, *RANK_LISTS, *TEMPLATE_INPUTS),
            *(name for names in TWINS for name in names),
            *NAMED,
            *(name for entry in JUDGED for name in (*entry.answers, *entry.columns)),
            *(name for entry in PAIRS for name in (entry.chosen, entry.rejected)),
            *(entry.column for entry in LISTS),
        )
    )
)
"""What a column may be mapped to: the names by which the known formats know it."""
_POINTERS = frozenset((*NAMED, *(name for entry in JUDGED for name in entry.columns)))
"""Columns that name the better of two answers, by the name of its column as well."""


def check_columns(columns: Mapping[str, str] | None) -> None:
    """Raise DataError for a mapping with a name that no format knows, or of something else than names."""
    if columns is not None and not isinstance(columns, Mapping):
        raise DataError(f"columns is {columns!r}: expected a mapping such as {{'prompt': 'question'}}")
    for target, name in (columns or {}).items():
        if target not in TARGETS:
            raise DataError(f"columns: no format reads {target!r}{hint(target, TARGETS)}")
        if not isinstance(name, str) or not name:
            raise DataError(f"columns: {target!r} is {name!r}, expected the name of a column of the rows")


def mapped(rows: Iterator[Located], columns: Mapping[str, str], report: LoadReport) -> Iterator[Located]:
    """The rows with their columns under the names that formats know; the others are counted as unread.

    A row that lacks one of the columns, or has null there, goes on without it.

    Raises:
        DataError: none of the first rows has a column of one of these names.
    """
    used = {name.partition(".")[0] for name in columns.values()}
    targets = {name: target for target, name in columns.items()}
    first = list(islice(rows, LOOKED_AT))
    for name in columns.values() if first else ():
        if not any(_is_there(row, name) for _, row in first):
            place, row = first[0]
            which = "the row has not" if len(first) == 1 else f"none of the first {len(first)} rows has"
            raise DataError(f"{place}: columns names {name!r}, which {which}{hint(name, row)}")
    for origin, row in chain(first, rows):
        report.leave_out(row, (name for name, value in row.items() if name not in used and not is_null(value)))
        values = ((target, _value(row, name)) for target, name in columns.items())
        yield origin, {target: _pointed(target, value, targets) for target, value in values if not is_null(value)}


def _pointed(target: str, value: Any, targets: Mapping[str, str]) -> Any:
    """A value; where it names the column of the better answer, the name by which formats know that column."""
    return targets.get(value, value) if target in _POINTERS and isinstance(value, str) else value


def _is_there(row: Mapping[str, Any], name: str) -> bool:
    """Whether a row has a column, or what a path leads to, be it null."""
    return name in row or _value(row, name) is not None or row.get(name.partition(".")[0], ...) is None


def _value(row: Mapping[str, Any], name: str) -> Any:
    """What stands under a name, or under a path through objects and lists such as `input.messages` or `info.0.text`."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def there(columns: Mapping[str, str], source: Source, split: str) -> dict[str, str]:
    """Of a mapping, the columns that one of the first rows of a source has."""
    first = [row for _, row in islice(read_rows(source, split, LoadReport(str(source))), LOOKED_AT)]
    return {target: name for target, name in columns.items() if any(_value(row, name) is not None for row in first)}


def parsed_columns(words: Sequence[str] | None) -> dict[str, str] | None:
    """The mapping that a command line gives as `prompt=question chosen=good`.

    Raises:
        DataError: a word that is no NAME=COLUMN.
    """
    if not words:
        return None
    wrong = next((word for word in words if "=" not in word), None)
    if wrong is not None:
        raise DataError(f"--columns {wrong}: expected NAME=COLUMN, such as prompt=question")
    return dict(word.split("=", 1) for word in words)  # type: ignore[misc]

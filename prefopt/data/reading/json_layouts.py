"""Finds the rows in a JSON document: an array, an array in a wrapper, columns, splits, or the one row itself."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..records import DataError, kind_of
from ..report import LoadReport
from .rows import Located, named_split, names_split, objects

WRAPPERS = ("data", "instances", "rows")
"""Where an array of rows may stand in an object: in many files, in LMFlow's, and in what the hub's datasets-server
answers (https://huggingface.co/docs/dataset-viewer/rows)."""

_LINES = re.compile(r"\.(jsonl|ndjson|jsonlines)\b")
_ID_COLUMNS = {"input_ids", "prompt_ids", "chosen_ids", "rejected_ids", "prompt_input_ids", "chosen_input_ids"}
"""Columns of token ids, whose cells are lists: a row of them alone is no table of columns."""

TURN = ("role", "from", "content", "value")


def rows_of(content: Any, place: str, origin: str, split: str, report: LoadReport) -> Iterator[Located]:
    """Yield the rows of a document.

    Args:
        place: of the document, before the number of an item.
        origin: where the value itself begins, in case that it is a row.

    Raises:
        DataError: it has splits, but not this one; columns are of different lengths; it holds no rows.
    """
    if isinstance(content, list):
        yield from objects(content, f"{place}:item", report)
    elif not isinstance(content, dict):
        raise DataError(f"{origin}: the file holds {kind_of(content)}: give an array of objects, or an object a line")
    elif _is_splits(content):
        name = named_split(content, split)
        if name is None:
            raise DataError(f"{place}: no split {split!r} in this file; it has {', '.join(content)}: name one of them")
        yield from rows_of(content[name], f"{place}[{name}]", origin, split, report)
    elif items := _wrapped(content):
        yield from _served(content, place, report) if _is_served(items) else objects(items, f"{place}:item", report)
    elif (columns := _columns(content, place)) is not None:
        yield from objects(columns, f"{place}:item", report)
    elif any(content.get(name) == [] for name in WRAPPERS):
        return
    elif content and all(name.isdigit() and isinstance(row, dict) for name, row in content.items()):
        yield from objects(content.values(), f"{place}:item", report)  # as pandas writes with orient="index"
    else:
        yield origin, content


def _is_splits(content: Mapping[str, Any]) -> bool:
    return bool(content) and all(names_split(name) and isinstance(rows, list | dict) for name, rows in content.items())


def _wrapped(content: Mapping[str, Any]) -> list[Any] | None:
    """The array in a wrapper. A row may have a field of that name, too: then it has no objects in it."""
    found = (content[name] for name in WRAPPERS if isinstance(content.get(name), list))
    return next((items for items in found if any(isinstance(item, dict) for item in items)), None)


def _is_served(items: list[Any]) -> bool:
    return all(isinstance(item, dict) and isinstance(item.get("row"), dict) for item in items)


def _served(content: Mapping[str, Any], place: str, report: LoadReport) -> Iterator[Located]:
    """The rows that the hub's datasets-server answered: a page, in which long cells are truncated and said to be."""
    items = content["rows"]
    total = content.get("num_rows_total")
    if isinstance(total, int) and total > len(items):
        report.note("the file is one page of a dataset", f"{place}, {len(items):,} of {total:,} rows")
    for number, item in enumerate(items, 1):
        if cut := item.get("truncated_cells"):
            report.drop("cells are truncated by the datasets-server", f"{place}:item {number}", ", ".join(cut))
        else:
            yield f"{place}:item {number}", item["row"]


def _columns(content: Mapping[str, Any], place: str) -> list[dict[str, Any]] | None:
    """The rows of a table that is written column by column; None where this is no such table."""
    values = list(content.values())
    if isinstance(content.get("columns"), list) and isinstance(content.get("data"), list):  # pandas, orient="split"
        return [dict(zip(content["columns"], cells, strict=True)) for cells in content["data"]]
    if values and all(isinstance(column, dict) and column for column in values):  # pandas, orient="columns"
        keys = list(values[0])
        if all(key.isdigit() for key in keys) and all(list(column) == keys for column in values):
            return [{name: column[key] for name, column in content.items()} for key in keys]
    if not values or not all(isinstance(column, list) and not _is_chat(column) for column in values):
        return None
    if _LINES.search(place) or _ID_COLUMNS & content.keys():  # one row, all of whose fields are lists
        return None
    if len({len(column) for column in values}) > 1:
        lengths = ", ".join(f"{name} has {len(column)}" for name, column in content.items())
        raise DataError(f"{place}: columns of different lengths: {lengths}: give each row a cell in every column")
    return [dict(zip(content, cells, strict=True)) for cells in zip(*values, strict=True)]


def _is_chat(column: list[Any]) -> bool:
    """Whether a list is a conversation, which one row has, and no column of cells."""
    return bool(column) and all(isinstance(item, dict) and any(key in item for key in TURN) for item in column)

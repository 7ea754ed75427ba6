"""Reads the rows of JSON: an object a line, or a document of any layout; the content says which, not the name."""

import io
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ..records import DataError, kind_of
from ..report import LoadReport
from .json_layouts import rows_of
from .rows import Located, Row
from .text import lines

Numbered = Iterable[tuple[int, bytes]]

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def read_json(path: Path, split: str, report: LoadReport) -> Iterator[Located]:
    """Yield the rows of a JSON or JSON lines file."""
    rest = lines(path, report)
    begun: list[tuple[int, bytes]] = []
    filled: list[bytes] = []
    for number, line in rest:
        begun.append((number, line))
        if not line.isspace():
            filled.append(line)
            if len(filled) == 2:
                break
    if _is_document(filled):
        yield from _document(b"".join(line for _, line in chain(begun, rest)), path, split, report)
    else:
        yield from _json_lines(chain(begun, rest), path, report)


def _is_document(first: list[bytes]) -> bool:
    """Whether one JSON value goes over several lines, or is all that the file has, by the first two that are filled."""
    if not first or first[0].lstrip()[:1] not in (b"{", b"["):
        return False
    if _whole(first[0]):
        return len(first) == 1
    return first[0].lstrip().startswith(b"[") or len(first) == 1 or not _whole(first[1])


def _whole(line: bytes) -> bool:
    """Whether a line is an object or array of its own."""
    try:
        return isinstance(json.loads(line), dict | list)
    except (ValueError, RecursionError):
        return False


def _json_lines(numbered: Numbered, path: Path, report: LoadReport) -> Iterator[Located]:
    for number, line in numbered:
        if line.isspace():
            continue
        origin = f"{path}:{number}"
        row = _parse(line, origin, report)
        if row is not None:
            yield origin, row


def _parse(line: bytes, origin: str, report: LoadReport) -> Row | None:
    """The object that a line holds; None, and a drop in the report, where it holds none."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        report.drop("bytes are not UTF-8", origin, f"byte {error.start + 1} of the line")
    except json.JSONDecodeError as error:
        if b"\0" in line:
            report.drop("line holds NUL bytes, as after a crash while writing", origin, f"{len(line):,} bytes")
        else:
            end = "" if line.endswith(b"\n") else ", in a last line without a line end: the file may be cut off"
            report.drop("not valid JSON", origin, f"{error.msg}, column {error.colno}{end}")
    except RecursionError:
        report.drop("JSON is nested too deeply", origin)
    else:
        if isinstance(row, dict):
            return row
        report.drop(f"row is {kind_of(row)}, expected an object", origin)
    return None


def _document(data: bytes, path: Path, split: str, report: LoadReport) -> Iterator[Located]:
    """The rows of one JSON value, or of several that are pretty-printed one after another."""
    try:
        values = list(_values(data.decode("utf-8")))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: bytes are not UTF-8 at byte {error.start + 1}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        if _is_printed(data):
            raise DataError(f"{path}: not valid JSON: {error}: mend it, or write it again") from error
        yield from _json_lines(enumerate(io.BytesIO(data), 1), path, report)
        return
    if len(values) == 1:
        number, value = values[0]
        yield from rows_of(value, str(path), f"{path}:{number}", split, report)
        return
    for number, value in values:
        if isinstance(value, dict):
            yield f"{path}:{number}", value
        else:
            report.drop(f"row is {kind_of(value)}, expected an object", f"{path}:{number}")


def _is_printed(data: bytes) -> bool:
    """Whether the first line ends within a value as a printer of JSON ends lines, and not as a cut off row does."""
    first = data.lstrip().split(b"\n", 1)[0].strip()
    return first.startswith(b"[") or first.endswith((b"{", b"[", b","))


def _values(text: str) -> Iterator[tuple[int, Any]]:
    """Each JSON value of a text, with the number of the line that it begins on."""
    number, position = 1, 0
    while True:
        start = _SPACE.match(text, position).end()  # type: ignore[union-attr]  # it matches nothing at all, too
        number += text.count("\n", position, start)
        if start == len(text):
            return
        value, position = _DECODER.raw_decode(text, start)
        yield number, value
        number += text.count("\n", start, position)

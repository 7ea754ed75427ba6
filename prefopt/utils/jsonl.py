"""Files of JSON lines that survive a kill and a full disk: read, appended to, or replaced as a whole.

A record is a line, and counts only once its newline is there: a line that a kill left half-written is invisible to
readers, and the next append cuts it off. The bytes depend on the records alone: keys are sorted, nothing says when.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import files

logger = logging.getLogger(__name__)

Record = Mapping[str, Any]
BLOCK = 1 << 16


class DamagedFile(ValueError):
    """A complete line is no JSON object. A kill does not leave such a line, so nobody but the user may mend it."""


def line_of(record: Record) -> bytes:
    """The line of a record: UTF-8 with its newline, in which Chinese stays readable.

    Raises:
        ValueError: NaN or infinity, which JSON lacks, or text that holds half a surrogate pair.
    """
    return (json.dumps(record, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n").encode("utf-8")


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The complete records of a file, one at a time; none if there is no file.

    Raises:
        DamagedFile: a complete line that holds no JSON object; the message names file and line.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            yield _parsed(line, f"{path}:{number}")


def _parsed(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DamagedFile(f"{place}: not a JSON line ({error}): restore the file, or delete it from here on") from error
    if not isinstance(record, dict):
        raise DamagedFile(f"{place}: not a JSON object: restore the file, or delete it from here on")
    return record


def append(path: Path, records: Iterable[Record], before: Callable[[int], None] | None = None) -> bytes:
    """Add records at the end, and return their lines when they are on the disk. All are added or, on an error, none.

    Args:
        before: is told how many bytes the file will have, before anything is written.

    Raises:
        OSError: they could not be written, as on a full disk; the message names the file. What it held is intact.
    """
    data = b"".join(map(line_of, records))
    if not data:
        return data
    new = not path.exists()
    if before is not None:
        before((0 if new else complete_size(path)) + len(data))
    try:
        files.make_folder(path.parent)
        with path.open("ab", buffering=0) as file:
            _append(file.fileno(), data, complete_size(path))
        if new:
            files.flush(path.parent)  # or a power cut could forget the file's name
    except BaseException as error:
        if new:
            take_back(path, 0)
        if isinstance(error, OSError):
            raise files.explained(error, path, len(data)) from error
        raise
    return data


def take_back(path: Path, size: int) -> None:
    """Cut a file to the size that it had before what was appended last; one that had none goes, if the disk allows."""
    with suppress(OSError):
        if size:
            os.truncate(path, size)
        else:
            path.unlink()


def _append(descriptor: int, data: bytes, size: int) -> None:
    """Write `data` from `size` on; after an error the file has that size again."""
    os.ftruncate(descriptor, size)
    try:
        files.write(descriptor, data)
        os.fsync(descriptor)
    except BaseException:  # a keyboard interrupt too
        with suppress(OSError):  # then a part of a line stays, which no reader sees
            os.ftruncate(descriptor, size)
        raise


def complete_size(path: Path) -> int:
    """Bytes up to and with the last newline, looked for from the end."""
    size = end = path.stat().st_size
    with path.open("rb") as file:
        while end:
            start = max(0, end - BLOCK)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
    if end < size:
        logger.warning("%s: a half-written line of %d bytes is cut off", path, size - end)
    return end


def replace(path: Path, records: Iterable[Record]) -> None:
    """Write a file of records whole or not at all, see `files.replace`.

    Raises:
        OSError: it could not be written, as on a full disk; the message names the file. What it held is intact.
    """
    files.replace(path, map(line_of, records))


def read_object(path: Path, remedy: str = "restore the file, or delete it") -> dict[str, Any]:
    """The object that a JSON file holds, an empty one if there is no file.

    Args:
        remedy: what to do about a damaged file, as the message ends.

    Raises:
        ValueError: it is not JSON, or no object; the message names it.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}): {remedy}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: not a JSON object: {remedy}")
    return value

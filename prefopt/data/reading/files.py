"""Reads one file: what it is say its first bytes, and its name if they leave it open. A kind is added to `READERS`."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from ..records import DataError
from ..report import LoadReport
from .compression import ERRORS, SUFFIXES, compression_of, opened
from .delimited import read_csv, read_tsv
from .json_rows import read_json
from .rows import Located
from .signatures import HEAD, foreign
from .tables import read_arrow, read_parquet

Reader = Callable[[Path, str, LoadReport], Iterator[Located]]

READERS: dict[str, Reader] = {
    ".jsonl": read_json,
    ".json": read_json,
    ".ndjson": read_json,
    ".jsonlines": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
}
_TABLES: dict[bytes, Reader] = {b"PAR1": read_parquet, b"ARROW1": read_arrow, b"\xff\xff\xff\xff": read_arrow}


def split_suffix(name: str) -> tuple[str, str, str]:
    """A file's name as stem, suffix that chooses a reader, and suffix of compression; empty where there is none."""
    compression = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    plain = name[: len(name) - len(compression)]
    suffix = Path(plain).suffix
    return (plain.removesuffix(suffix), suffix.lower(), compression) if suffix.lower() in READERS else (name, "", "")


def read_file(path: Path, split: str, report: LoadReport) -> Iterator[Located]:
    """Yield the rows of a file.

    Args:
        split: which rows to read of a JSON document that has several splits.

    Raises:
        DataError: it cannot be read, holds no row, or is no file of a known kind.
    """
    reader = _reader(path)
    seen, dropped = False, report.dropped.total()
    for located in reader(path, split, report):
        seen = True
        yield located
    if not seen and report.dropped.total() == dropped:
        raise DataError(f"{path}: holds no row at all. Is it the file you meant?")


def _reader(path: Path) -> Reader:
    """What reads the file.

    Raises:
        DataError: nothing does; the message says what the file is and what to do.
    """
    _check_is_file(path)
    suffix, named = split_suffix(path.name)[1:]
    head = _head(path, None)
    compression = compression_of(head)
    inside = _head(path, compression) if compression else head
    if what := foreign(inside):
        raise DataError(f"{path}: {what}")
    if named and head and not compression:
        kind = SUFFIXES[named]
        raise DataError(
            f"{path}: not a readable {kind} file: it begins otherwise; take {named} off its name if it is text"
        )
    if compression_of(inside) and compression:
        raise DataError(f"{path}: is compressed twice: decompress it once with `{compression} -d`")
    reader = next((reader for magic, reader in _TABLES.items() if inside.startswith(magic)), READERS.get(suffix))
    if reader is None:
        raise DataError(
            f"{path}: unknown kind of file; known are {', '.join(READERS)}, and {', '.join(SUFFIXES)} of those of text"
        )
    if compression and reader in _TABLES.values():
        raise DataError(f"{path}: is a table compressed as a whole: decompress it with `{compression} -d`")
    return reader


def _check_is_file(path: Path) -> None:
    """Raise a DataError for what is no file that can be read; opening a pipe would wait for its writer."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        if path.is_symlink():
            raise DataError(f"{path}: is a link to {os.readlink(path)}, which is not there: fetch the file") from error
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}: mend that, or give another file") from error
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: is a pipe, socket or device, not a file: write its data to a file first")


def _head(path: Path, compression: str | None) -> bytes:
    try:
        with opened(path, compression) as file:
            return file.read(HEAD) if compression is None else file.peek(HEAD)
    except ERRORS as error:
        if compression is None:
            reason = getattr(error, "strerror", None) or str(error)
            raise DataError(f"{path}: cannot be read: {reason}: mend that, or give another file") from error
        raise DataError(f"{path}: not a readable {compression} file: {error}: fetch or write it again") from error

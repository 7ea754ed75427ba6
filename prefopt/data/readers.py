"""Where files are opened: a file, folder, dataset or hub id as raw rows, each with its place, such as "file.jsonl:3".

What a row means is not decided here but by an adapter (`adapters/`). A kind of file is added to `_READERS`, at the end.

JSON is read here and not by `datasets`, which accepts missing keys and mixed types without a word, reports row numbers
relative to a block, and reuses a stale cache when a file changes within one tick of its clock. Nothing here is cached.
"""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .records import DataError, kind_of
from .report import LoadReport

if TYPE_CHECKING:
    import datasets

Row: TypeAlias = dict[str, Any]
Located: TypeAlias = tuple[str, Row]
Source: TypeAlias = (
    "str | Path | datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | list[dict[str, Any]]"
)

SPLITS = ("train", "test", "validation", "valid", "eval", "dev")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def read_rows(source: "Source", split: str, report: LoadReport) -> Iterator[Located]:
    """Yield ("file:line", row); what cannot be read as a row is counted in the report."""
    if not isinstance(source, str | Path):
        return _in_memory(source, split, report)
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path, split, report)
    if path.exists():
        return _file(path, report)
    if HUB_ID.fullmatch(str(source)) and not _known_suffix(path):
        return _hub(str(source), split, report)
    raise DataError(
        f"{source}: no such file or folder. Give a path that exists, a hub id such as owner/name, or a Dataset"
    )


def _in_memory(source: Any, split: str, report: LoadReport) -> Iterator[Located]:
    """Rows of a Dataset, a dict of splits, or any iterable of dicts."""
    if isinstance(source, Mapping):
        if split not in source:
            raise DataError(f"no split {split!r} in this dataset; it has {', '.join(map(str, source))}")
        source = source[split]
    if not isinstance(source, Iterable):
        raise DataError(
            f"cannot read rows from {type(source).__name__}: give a path, a hub id, a Dataset or a list of dicts"
        )
    for number, row in enumerate(source):
        origin = f"row {number}"
        if isinstance(row, Mapping):
            yield origin, dict(row)
        else:
            report.drop(f"row is {kind_of(row)}, expected an object", origin)


def _hub(name: str, split: str, report: LoadReport) -> Iterator[Located]:
    import datasets

    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # whatever the hub client raises, the user needs to know which name it was about
        raise DataError(f"{name}: neither a file here nor readable from the hub (split {split!r}): {error}") from error
    for number, row in enumerate(rows):
        yield f"{name}[{split}]:row {number}", row


def _folder(folder: Path, split: str, report: LoadReport) -> Iterator[Located]:
    if (folder / "dataset_dict.json").exists() or (folder / "dataset_info.json").exists():
        import datasets

        yield from _in_memory(datasets.load_from_disk(str(folder)), split, report)
        return
    for path in _split_files(folder, split):
        yield from _file(path, report)


def _split_files(folder: Path, split: str) -> list[Path]:
    """The files of one split: those that name it; all of them when no file names any split and train is asked for."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _known_suffix(path))
    named = [path for path in files if _names_split(path.relative_to(folder), split)]
    if (
        not named
        and split == "train"
        and not any(_names_split(p.relative_to(folder), s) for p in files for s in SPLITS)
    ):
        named = files
    if not named:
        names = ", ".join(str(path.relative_to(folder)) for path in files[:10]) or "no data file"
        raise DataError(
            f"{folder}: no file of split {split!r}; found {names}. Name the split as it is in the file name"
        )
    return named


def _names_split(path: Path, split: str) -> bool:
    """Whether a path holds the name of a split as a word of its own."""
    return re.search(rf"(?<![a-z0-9]){re.escape(split)}(?![a-z0-9])", str(path).lower()) is not None


def _known_suffix(path: Path) -> str:
    """The suffix that chooses a reader, less a .gz; empty when no reader knows it."""
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    return plain.suffix if plain.suffix in _READERS else ""


def _file(path: Path, report: LoadReport) -> Iterator[Located]:
    suffix = _known_suffix(path)
    if not suffix:
        raise DataError(f"{path}: unknown kind of file; known are {', '.join(_READERS)}, and .gz of the JSON ones")
    seen = False
    for located in _READERS[suffix](path, report):
        seen = True
        yield located
    if not seen and not report.dropped:
        raise DataError(f"{path}: holds no row at all. Is it the file you meant?")


def _read_jsonl(path: Path, report: LoadReport) -> Iterator[Located]:
    for number, line in _lines(path, report):
        if line.isspace():
            continue
        origin = f"{path}:{number}"
        row = _parse(line, origin, report)
        if row is not None:
            yield origin, row


def _lines(path: Path, report: LoadReport) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; of a damaged gzip, those before the damage."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        if number == 0:
            raise DataError(f"{path}: not a readable gzip file: {error}") from error
        report.drop(
            "gzip data is truncated or damaged, the rest of the file is lost", f"{path}:{number + 1}", str(error)
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _parse(line: bytes, origin: str, report: LoadReport) -> Row | None:
    """The object that a line holds; None, and a drop in the report, where it holds none."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        report.drop("bytes are not UTF-8", origin, f"byte {error.start + 1} of the line")
    except json.JSONDecodeError as error:
        report.drop("not valid JSON", origin, f"{error.msg}, column {error.colno}")
    except RecursionError:
        report.drop("JSON is nested too deeply", origin)
    else:
        if isinstance(row, dict):
            return row
        report.drop(f"row is {kind_of(row)}, expected an object", origin)
    return None


def _read_json(path: Path, report: LoadReport) -> Iterator[Located]:
    """An array of objects, or one under "data". A file of JSON lines with the wrong suffix is read as what it is."""
    data = b"".join(line for _, line in _lines(path, report))
    content: Any = None
    try:
        content = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: bytes are not UTF-8 at byte {error.start + 1}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        if not data.lstrip().startswith(b"{"):
            raise DataError(f"{path}: not valid JSON: {error}") from error
    if isinstance(content, dict):
        content = content.get("data")
    if isinstance(content, list):
        yield from _items(content, path, report)
    else:
        yield from _read_jsonl(path, report)


def _items(items: list[Any], path: Path, report: LoadReport) -> Iterator[Located]:
    """The objects of a JSON array; what is no object is dropped."""
    for number, row in enumerate(items, 1):
        origin = f"{path}:item {number}"
        if isinstance(row, dict):
            yield origin, row
        else:
            report.drop(f"row is {kind_of(row)}, expected an object", origin)


def _read_parquet(path: Path, report: LoadReport) -> Iterator[Located]:
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path}:row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file after row {number}: {error}") from error


_READERS: dict[str, Callable[[Path, LoadReport], Iterator[Located]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}

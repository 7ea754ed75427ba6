"""Tells what a source is, and reads it: rows in memory, a folder, a file, or a dataset of a hub."""

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ...utils.extras import require
from ..records import DataError, kind_of
from ..report import LoadReport
from .files import read_file, split_suffix
from .folders import files_of
from .plain import plain_row, rows_of_table
from .rows import Located, named_split
from .tables import BATCH, convert, converters_of, is_plain

if TYPE_CHECKING:
    import datasets

Source: TypeAlias = (
    "str | Path | datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | list[dict[str, Any]] | Any"
)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
MODELSCOPE = "modelscope://"
FRAMES = ("DataFrame", "Table")
"""Types of tables of pandas, polars and pyarrow, which iterate over columns."""


def read_rows(source: "Source", split: str, report: LoadReport) -> Iterator[Located]:
    """Yield ("file:line", row); what cannot be read as a row is counted in the report."""
    if not isinstance(source, str | Path):
        return _in_memory(source, split, report)
    if str(source).startswith(MODELSCOPE):
        return _modelscope(str(source).removeprefix(MODELSCOPE), split, report)
    path = Path(source).expanduser()
    if os.path.isdir(path):
        return _folder(path, split, report)
    if _is_there(path):
        return read_file(path, split, report)
    if HUB_ID.fullmatch(str(source)) and not split_suffix(path.name)[1]:
        return _hub(str(source), split, report)
    if "://" in str(source):
        raise DataError(
            f"{source}: an address is not read: download it and give the file, or give a hub id such as owner/name, "
            f"or {MODELSCOPE}owner/name"
        )
    raise DataError(
        f"{source}: no such file or folder. Give a path that exists, a hub id such as owner/name, or a Dataset"
    )


def _is_there(path: Path) -> bool:
    """Whether there is something by this name, which may be a broken link, or what cannot be looked at."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    return True


def _in_memory(source: Any, split: str, report: LoadReport, place: str = "row") -> Iterator[Located]:
    """Rows of a Dataset, a dict of splits, a table, or any iterable of dicts."""
    if isinstance(source, Mapping):
        name = named_split(source, split)
        if name is None:
            raise DataError(f"no split {split!r} in this dataset; it has {', '.join(map(str, source))}")
        report.other_splits |= {str(other): None for other in source if other != name}
        source = source[name]
    if type(source).__name__ in FRAMES:
        source = rows_of_table(source)
    if not isinstance(source, Iterable) or type(source).__name__ == "LazyFrame":
        raise DataError(
            f"cannot read rows from {type(source).__name__}: give a path, a hub id, a Dataset, a list of dicts, or a "
            "table of pandas, polars (collected) or pyarrow"
        )
    for number, row in enumerate(_rows_of(source)):
        origin = f"{place} {number}"
        if isinstance(row, Mapping):
            yield origin, plain_row(row)
        else:
            report.drop(f"row is {kind_of(row)}, expected an object", origin)


def _rows_of(source: Any) -> Iterator[Any]:
    """The rows of a dataset as Python values, all their columns, whatever format it was set to; of others as they are.

    Tables are read in batches: row by row `datasets` takes twice as long.
    """
    features, kind = getattr(source, "features", None), getattr(source, "format", None)
    kind = kind.get("type") if isinstance(kind, Mapping) else None
    if not features:
        yield from source
    elif kind == "custom" or not hasattr(source, "with_format") or not all(map(is_plain, features.values())):
        source = source if kind in (None, "custom") else source.with_format(None)
        converters = converters_of(features.arrow_schema, parsed=True)
        yield from (convert(dict(row), converters) if isinstance(row, Mapping) else row for row in source)
    else:
        converters = converters_of(features.arrow_schema)
        for table in source.with_format("arrow").iter(BATCH):
            yield from (convert(row, converters) for row in table.to_pylist())


def _folder(folder: Path, split: str, report: LoadReport) -> Iterator[Located]:
    if not _is_saved(folder):
        for path in files_of(folder, split, report):
            yield from read_file(path, split, report)
        return
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # of many kinds, none of which names the folder
        raise DataError(f"{folder}: a saved dataset that cannot be opened: {error}: save or copy it again") from error
    if isinstance(saved, Mapping) and named_split(saved, split) is None:
        raise DataError(f"{folder}: no split {split!r} in this saved dataset; it has {', '.join(map(str, saved))}")
    yield from _in_memory(saved, split, report)


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote this folder; its cache has a dataset_info.json, too, but no state."""
    one = (folder / "dataset_info.json").exists() and (folder / "state.json").exists()
    return one or (folder / "dataset_dict.json").exists()


def _hub(name: str, split: str, report: LoadReport) -> Iterator[Located]:
    import datasets

    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # whatever the hub client raises, the user needs to know which name it was about
        choose = ""
        if "Config name is missing" in str(error):
            choose = (
                "\nChoose with --dataset_config NAME, or give `datasets.load_dataset(name, NAME)` instead of the name"
            )
        raise DataError(
            f"{name}: neither a file here nor readable from the hub (split {split!r}): {error}{choose}"
        ) from error
    yield from _in_memory(rows, split, report, f"{name}[{split}]:row")


def _modelscope(name: str, split: str, report: LoadReport) -> Iterator[Located]:
    """Rows of a repository on ModelScope, read as a folder: its own loader needs an older `datasets` than prefopt."""
    require("modelscope", ("modelscope",), f"{MODELSCOPE}{name}")
    from modelscope import dataset_snapshot_download

    try:
        folder = dataset_snapshot_download(name)
    except Exception as error:  # as with the other hub
        raise DataError(f"{MODELSCOPE}{name}: cannot be fetched from ModelScope: {error}") from error
    yield from _folder(Path(folder), split, report)

"""Reads the rows of Arrow tables: parquet files, and Arrow files and streams (feather, the cache of `datasets`).

Cells are given as JSON would hold them, where Arrow has other kinds for them: text that is marked as JSON is parsed, a
decimal is a number, the number of a class is its name, and a conversation that is stored turn field by turn field is a
list of turns again.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..records import DataError
from ..report import LoadReport
from .rows import Located, Row

if TYPE_CHECKING:
    import pyarrow

Convert: TypeAlias = Callable[[Any], Any]

BATCH = 1024
"""Rows in memory at a time."""

END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""How a stream ends that has all its batches, https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format"""

TURNS = ({"role", "content"}, {"from", "value"})


def read_parquet(path: Path, split: str, report: LoadReport) -> Iterator[Located]:
    """Yield the rows of a parquet file."""
    import pyarrow.parquet

    def batches() -> Iterator["pyarrow.RecordBatch"]:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from file.iter_batches(BATCH)

    return _rows(batches(), path, "parquet")


def read_arrow(path: Path, split: str, report: LoadReport) -> Iterator[Located]:
    """Yield the rows of an Arrow file or stream, or of a feather file of version 2."""
    import pyarrow

    def batches() -> Iterator["pyarrow.RecordBatch"]:
        with pyarrow.OSFile(str(path)) as source:
            if source.read(6) == b"ARROW1":
                file = pyarrow.ipc.open_file(source)
                yield from map(file.get_batch, range(file.num_record_batches))
                return
            source.seek(0)
            yield from pyarrow.ipc.open_stream(source)
            source.seek(source.tell() - len(END))
            if source.read(len(END)) != END:
                report.drop("arrow stream ends without its end mark, rows may be lost", str(path))

    return _rows(batches(), path, "arrow")


def _rows(batches: Iterable["pyarrow.RecordBatch"], path: Path, kind: str) -> Iterator[Located]:
    import pyarrow

    number, schema = 0, None
    converters: dict[str, Convert] = {}
    try:
        for batch in batches:
            if schema is None:
                schema = batch.schema
                converters = _checked(schema, path)
            for row in batch.to_pylist():
                number += 1
                yield f"{path}:row {number}", convert(row, converters) if converters else row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable {kind} file after row {number}: {error}") from error
    except (UnicodeDecodeError, OverflowError, json.JSONDecodeError) as error:
        raise DataError(
            f"{path}: a cell after row {number} is not what its column says ({error}): write the file again"
        ) from error


def _checked(schema: "pyarrow.Schema", path: Path) -> dict[str, Convert]:
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise DataError(f"{path}: has more than one column {', '.join(map(repr, twice))}: rename the columns")
    return converters_of(schema)


def convert(row: Row, converters: Mapping[str, Convert]) -> Row:
    """The row with those cells converted that need it."""
    for name, converter in converters.items():
        row[name] = converter(row[name])
    return row


def converters_of(schema: "pyarrow.Schema", parsed: bool = False) -> dict[str, Convert]:
    """How to convert the cells of each column that needs it.

    Args:
        parsed: text that is marked as JSON is parsed already.
    """
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = metadata["info"]["features"] or {}
    except (ValueError, KeyError, TypeError):
        features = {}
    found = ((field.name, _converter(field.type, features.get(field.name), parsed)) for field in schema)
    return {name: converter for name, converter in found if converter is not None}


def is_plain(feature: Any) -> bool:
    """Whether a column of `datasets` holds what Arrow does: values, lists and objects, and no images or audio."""
    import datasets

    if isinstance(feature, dict):
        return all(map(is_plain, feature.values()))
    if isinstance(feature, list):
        return is_plain(feature[0])
    if isinstance(feature, datasets.List | datasets.LargeList | datasets.Sequence):
        return is_plain(feature.feature)
    return isinstance(feature, datasets.Value | datasets.ClassLabel | datasets.Json)


def _converter(kind: "pyarrow.DataType", feature: Any, parsed: bool) -> Convert | None:
    """How to convert a cell of this type.

    Args:
        feature: what `datasets` notes about the cell, if anything.
    """
    import pyarrow
    from pyarrow import types

    feature = feature if isinstance(feature, dict) else {}
    if isinstance(kind, pyarrow.JsonType) or (_is_text(kind) and feature.get("_type") == "Json"):
        return None if parsed else _known(json.loads)
    if types.is_integer(kind) and feature.get("_type") == "ClassLabel":
        return _known(_named(feature.get("names") or []))
    if types.is_decimal(kind):
        return _known(float)
    if types.is_dictionary(kind):
        return _converter(kind.value_type, feature, parsed)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _converter(kind.value_type, feature.get("feature"), parsed)
        return inner and _known(lambda items: [inner(item) for item in items])
    if types.is_struct(kind):
        return _struct_converter(kind, feature, parsed)
    return None


def _struct_converter(kind: "pyarrow.StructType", feature: Mapping[str, Any], parsed: bool) -> Convert | None:
    fields = [kind.field(number) for number in range(kind.num_fields)]
    found = ((field.name, _converter(field.type, feature.get(field.name), parsed)) for field in fields)
    inner = {name: converter for name, converter in found if converter is not None}
    if _is_turns(fields):
        return _known(lambda cell: _turns(convert(cell, inner)))
    return _known(lambda cell: convert(cell, inner)) if inner else None


def _is_turns(fields: list["pyarrow.Field"]) -> bool:
    """Whether each field has a value for every turn of a conversation, as `Sequence` of `datasets` stores them."""
    from pyarrow import types

    lists = all(types.is_list(field.type) or types.is_large_list(field.type) for field in fields)
    return lists and any(keys <= {field.name for field in fields} for keys in TURNS)


def _turns(cell: Mapping[str, Any]) -> list[Row] | Mapping[str, Any]:
    """A turn for each value of the fields; the cell as it is where they have not as many."""
    fields = {name: values for name, values in cell.items() if values is not None}
    if len({len(values) for values in fields.values()}) != 1:
        return cell
    return [dict(zip(fields, values, strict=True)) for values in zip(*fields.values(), strict=True)]


def _named(names: Sequence[str]) -> Convert:
    """The names of classes in the place of their numbers; what numbers none of them is kept, and -1 is unknown."""

    def name_of(number: Any) -> Any:
        if isinstance(number, int) and 0 <= number < len(names):
            return names[number]
        return None if number == -1 else number

    return name_of


def _known(converter: Convert) -> Convert:
    """The converter for cells that may be missing."""
    return lambda cell: None if cell is None else converter(cell)


def _is_text(kind: "pyarrow.DataType") -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)

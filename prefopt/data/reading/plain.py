"""Cells of rows in memory as JSON would hold them: numpy's arrays and scalars as lists and numbers, pandas' NA as null.

Records of pandas are such rows, `frame.to_dict("records")`: conversations that it read from parquet are arrays.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ..records import DataError
from .rows import Row

_AS_THEY_ARE = frozenset((str, int, float, bool, type(None)))
_MISSING = frozenset(("NAType", "NaTType"))
"""Types of what pandas has for a missing cell, beside NaN."""


def plain_row(row: Mapping[Any, Any]) -> Row:
    """The row as a dict; the same one where there is nothing to do."""
    if type(row) is dict and _AS_THEY_ARE.issuperset(map(type, row.values())):
        return row
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return value
    if kind is dict:
        return {name: _plain(each) for name, each in value.items()}
    if kind is list or kind is tuple:
        return [_plain(each) for each in value]
    if kind.__module__ == "numpy" and hasattr(value, "tolist"):
        found = value.tolist()
        return found if type(found) is kind else _plain(found)
    return None if kind.__name__ in _MISSING else value


def rows_of_table(table: Any) -> Iterator[Any]:
    """The rows of a table of pandas, polars or pyarrow.

    Raises:
        DataError: two of its columns have one name.
    """
    names = list(map(str, getattr(table, "column_names", getattr(table, "columns", ()))))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"the table has more than one column {', '.join(map(repr, twice))}: rename the columns")
    if hasattr(table, "to_batches"):  # pyarrow
        from .tables import convert, converters_of

        converters = converters_of(table.schema)
        yield from (convert(row, converters) for batch in table.to_batches() for row in batch.to_pylist())
    elif hasattr(table, "to_dicts"):  # polars
        yield from table.to_dicts()
    else:
        for cells in table.itertuples(index=False, name=None):
            yield dict(zip(names, cells, strict=True))

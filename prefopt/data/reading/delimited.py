"""Reads the rows of csv and tsv files. All cells are text, and an empty one is missing."""

import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from ..records import DataError
from ..report import LoadReport
from .rows import Located
from .text import decoded, lines

LONGEST = 2**31 - 1
"""Of a cell, in characters: csv's own limit of 131,072 is less than a long conversation has."""


def read_csv(path: Path, split: str, report: LoadReport) -> Iterator[Located]:
    """Yield the rows of a table whose header is separated by commas, or else by semicolons or tabs."""
    return _read(path, ",;\t", report)


def read_tsv(path: Path, split: str, report: LoadReport) -> Iterator[Located]:
    """Yield the rows of a table that is separated by tabs."""
    return _read(path, "\t", report)


def _read(path: Path, separators: str, report: LoadReport) -> Iterator[Located]:
    """Yield rows, each with the line that it begins on.

    Raises:
        DataError: the text is not valid, or a header names a column twice.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
    source = decoded(lines(path, report), path)
    begun = list(_until_filled(source))
    separator = _separator(begun[-1], separators) if begun else separators[0]
    reader = csv.reader(chain(begun, source), delimiter=separator, strict=True)
    names: list[str] = []
    line = 1
    try:
        for cells in reader:
            origin, line = f"{path}:{line}", reader.line_num + 1
            if not cells:
                continue
            if not names:
                names = _header(cells, origin)
            elif len(cells) == len(names):
                yield origin, {name: cell or None for name, cell in zip(names, cells, strict=True)}
            else:
                report.drop(
                    "row has not as many cells as the header: quote cells that hold separators, quotes or line ends",
                    origin,
                    f"{len(cells)} cells, and {len(names)} names",
                )
    except csv.Error as error:
        raise DataError(
            f"{path}:{line}: not valid csv in the row that begins here: {error}: "
            'quote cells that hold separators, quotes or line ends, and double quotes in them ("")'
        ) from error


def _until_filled(source: Iterator[str]) -> Iterator[str]:
    for line in source:
        yield line
        if not line.isspace():
            return


def _separator(header: str, separators: str) -> str:
    """The first of the separators that is in the header."""
    return next((each for each in separators if each in header), separators[0])


def _header(names: list[str], origin: str) -> list[str]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{origin}: the header names {', '.join(map(repr, twice))} more than once: rename the columns")
    return names

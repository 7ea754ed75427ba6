"""Writes tables as files for other programs: CSV with whole numbers and bounds of intervals, and LaTeX as it is shown.

The LaTeX needs the package booktabs; names with Chinese characters need an engine that sets them, such as XeLaTeX.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...utils import files
from .number_format import MISSING
from .tables import Cell, Table

FOLDER = "tables"
_SPECIAL = {
    **{character: f"\\{character}" for character in "#$%&_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\u00a0": "~"},
    **{"\u2212": "$-$", "\u2013": "--", "·": r"$\cdot$", "×": r"$\times$", "±": r"$\pm$"},
}
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


def write_tables(named: Mapping[str, Table], folder: Path) -> None:
    """Write each table as NAME.csv and NAME.tex into `tables` below a folder, each whole or not at all.

    Args:
        named: the names of files -> tables; in a name what is no letter, digit or hyphen becomes a hyphen.
    """
    for name, table in named.items():
        file = re.sub(r"[^\w-]+", "-", name).strip("-") or "table"
        files.replace(folder / FOLDER / f"{file}.csv", as_csv(table))
        files.replace(folder / FOLDER / f"{file}.tex", as_latex(table))


def as_csv(table: Table) -> str:
    """A line for each row; of a column with intervals, three fields: its value and both bounds."""
    places = range(len(table.columns))
    bounded = [any(row[place].bounds for row in table.rows) for place in places]
    lines: list[list[Any]] = [_heads(table, bounded), *(list(_values(row, bounded)) for row in table.rows)]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


def _heads(table: Table, bounded: list[bool]) -> list[str]:
    heads: list[str] = []
    for column, wide in zip(table.columns, bounded, strict=True):
        heads += [column.label, f"{column.label}: low", f"{column.label}: high"] if wide else [column.label]
    return heads


def _values(row: Iterable[Cell], bounded: list[bool]) -> Iterator[str | float]:
    for cell, wide in zip(row, bounded, strict=True):
        shown = "" if cell.text == MISSING else cell.text
        yield cell.order if cell.is_number and isinstance(cell.order, int | float) else shown
        if wide:
            yield from cell.bounds or ("", "")


def as_latex(table: Table) -> str:
    """A `tabular` with the rules of booktabs, every text as it is shown, so that nothing in it is a command."""
    head = " & ".join(_latex(column.label) for column in table.columns)
    rows = [" & ".join(_latex(_shown(cell)) for cell in row) for row in table.rows]
    body = "".join(f"{row} \\\\\n" for row in rows)
    columns = "l" + "r" * (len(table.columns) - 1)
    begin = f"% {' '.join(table.caption.split())}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n"
    return f"{begin}{head} \\\\\n\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"


def _shown(cell: Cell) -> str:
    return " ".join(part for part in (cell.text, cell.note, cell.detail) if part)


def _latex(text: str) -> str:
    raised = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda found: f"\0{found[0].translate(_RAISED)}\1", text)
    escaped = "".join(_SPECIAL.get(character, character) for character in raised)
    return escaped.replace("\0", "$^{").replace("\1", "}$").replace("\n", " ")

"""The report in a terminal of eighty columns: the verdict, the headline table and the warnings; writes no file."""

from __future__ import annotations

import re

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from ...utils.visible import visible_parts
from . import tables
from .findings import Findings
from .summary import verdict_lines, warning_lines
from .tables import Cell, Table
from .words import Words

WITH_INTERVAL = ("gain",)
LEFT_TO_THE_PAGE = ("accuracy",)
_PIECES = re.compile(r"[^ \t\n\u2e80-\uffff]+[，。；：！？、）]*|[ \t\n]+|.[，。；：！？、）]*")
"""Words, spaces, and single Chinese characters, with the punctuation after them."""


def print_summary(findings: Findings, console: Console, lang: str = "en") -> None:
    """
    Raises:
        ValueError: no such language.
    """
    words, findings = Words(lang), visible_parts(findings)
    first, *rest = verdict_lines(findings, words)
    console.print(Text(findings.title, style="bold"))
    console.print("", _headline(findings, words), "", sep="\n")
    console.print(Text(wrapped(first, console.width), style="bold"))
    for line in rest:
        console.print(Text(wrapped(line, console.width)))
    for serious, mark, style in ((True, "!", "yellow"), (False, "-", "dim")):
        for line in warning_lines(findings, words, serious=serious):
            console.print(Text(f"{mark} {wrapped(line, console.width - 2, '  ')}", style=style))


def print_table(table: Table, console: Console) -> None:
    """A table whole, what it is about below it."""
    shown = Grid(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for place, column in enumerate(table.columns):
        shown.add_column(Text(column.label), justify="right" if place else "left", overflow="fold")
    for row in visible_parts(table.rows):
        shown.add_row(*(Text(f"{cell.text} {cell.note}".rstrip()) for cell in row))
    console.print(Text(table.caption, style="bold"))
    console.print("", shown, "", sep="\n")
    console.print(Text(wrapped(table.about, console.width)))


def wrapped(text: str, width: int, indent: str = "") -> str:
    """In lines of at most `width` columns, those after the first indented.

    rich breaks at spaces only, and so a Chinese sentence early at every name in it. No line starts with punctuation.
    """
    lines, used = [""], 0
    for piece in _PIECES.findall(text):
        if used + cell_len(piece.rstrip()) > width and used:
            lines, used = [*lines, ""], 0
        kept = piece if used or not piece.isspace() else ""
        lines[-1] += kept
        used += cell_len(kept)
    return f"\n{indent}".join(line.rstrip() for line in lines)


def _headline(findings: Findings, words: Words) -> Grid:
    """Of the page's columns those that fit, with the one interval that decides."""
    whole = tables.headline(findings, words)
    kept = [place for place, column in enumerate(whole.columns) if column.key not in LEFT_TO_THE_PAGE]
    shown = Grid(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for place in kept:
        # Only the names give way where all is too wide.
        label = Text(whole.columns[place].label.replace(" ", "\n"))
        shown.add_column(label, justify="right" if place else "left", overflow="fold", no_wrap=place > 0)
    for row in whole.rows:
        keys = (whole.columns[place].key for place in kept)
        shown.add_row(*(_cell(row[place], key) for place, key in zip(kept, keys, strict=True)))
    return shown


def _cell(cell: Cell, key: str) -> Text:
    """As text: a name with square brackets is no markup."""
    if key in WITH_INTERVAL and cell.note:
        return Text(f"{cell.text} {cell.note}")
    return Text(f"{cell.text} ({cell.note})" if key == "method" and cell.note else cell.text)

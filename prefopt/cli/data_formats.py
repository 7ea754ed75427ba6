"""`prefopt data formats`: the table of the formats that rows may have, made from the adapters themselves."""

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ..data.adapters import REGISTRY, Adapter
from ..data.adapters.base import EXTRAS, KINDS
from ..data.adapters.columns import HISTORY, LABELS, QUESTIONS, SYSTEM, TEMPLATE_INPUTS

TITLES = {
    "pair": "Pairs: a chosen and a rejected answer",
    "list": "Lists: several answers, best first by score or rank",
    "unpaired": "Unpaired: an answer, and whether it is a good one",
    "sft": "Demonstrations: a good answer",
    "prompt": "Prompts",
}
NOTES = (
    f"A prompt is the first of {', '.join(QUESTIONS)}, or a conversation.",
    f"Before it come, in any format, {', '.join(SYSTEM)} and {', '.join(HISTORY)}.",
    f"For the chat template, in any format, {' and '.join(TEMPLATE_INPUTS)}; an assistant's turn may have tool_calls.",
    f"A pair may also have {', '.join(sorted(EXTRAS))}.",
    f"A demonstration may also have {', '.join(LABELS)}: one that they call bad is not learnt.",
    "A column that is not read is named with its count; one that holds turns, or has one of the names above, drops "
    "its row instead.",
)


def main(argv: Sequence[str]) -> int:
    """Print the table; always 0."""
    parser = argparse.ArgumentParser(
        prog="prefopt data formats", description="List the formats of rows that are recognised, and what is read."
    )
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, as in docs/formats.md")
    if parser.parse_args(list(argv)).markdown:
        print(markdown(), end="")
    else:
        show(Console())
    return 0


def show(console: Console) -> None:
    """The table as text, made for a terminal 80 columns wide."""
    for kind, adapters in _by_kind().items():
        table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
        for adapter in adapters:
            table.add_row(adapter.name, adapter.fields, style=None)
        console.print(TITLES[kind], style="bold")
        console.print(table, "", sep="\n", markup=False)
    for note in NOTES:
        console.print(note, markup=False)


def markdown() -> str:
    """The table with its sources, as a page."""
    lines = [
        "# Formats of rows",
        "",
        "`prefopt data formats --markdown` prints this page. `--adapter NAME` reads rows as one of these formats;",
        "without it the format is recognised. `--columns prompt=question chosen=good rejected=bad` reads any others.",
        "",
        *(f"- {note}" for note in NOTES),
    ]
    for kind, adapters in _by_kind().items():
        lines += ["", f"## {TITLES[kind]}", "", "| format | columns | not read | source |", "| --- | --- | --- | --- |"]
        lines += map(_line, adapters)
    return "\n".join(lines) + "\n"


def _line(adapter: Adapter) -> str:
    source = f"<{adapter.source}>" if adapter.source else ""
    return f"| `{adapter.name}` | {adapter.fields} | {adapter.unread} | {source} |"


def _by_kind() -> dict[str, list[Adapter]]:
    return {kind: [adapter for adapter in REGISTRY.values() if adapter.kind == kind] for kind in KINDS}

"""`prefopt data formats`: the table of the formats that rows may have, made from the adapters themselves."""

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ..data.adapters import REGISTRY, Adapter
from ..data.adapters.base import EXTRAS, KINDS
from ..data.adapters.columns import HISTORY, LABELS, QUESTIONS, SYSTEM, TEMPLATE_INPUTS
from ..data.adapters.labels import FLAG_LABELS
from ..data.records import TEXTS_BESIDE, THOUGHTS
from ..data.token_columns import GOOD_OR_BAD, MASKS
from ..data.tokenised import FORMS

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
    f"For the chat template, in any format, {' and '.join(TEMPLATE_INPUTS)}; an assistant's turn may have tool_calls "
    f"and a thought ({' or '.join(THOUGHTS)}), a tool's turn {' and '.join(TEXTS_BESIDE['tool'])}.",
    f"A pair may also have {', '.join(sorted(EXTRAS))}.",
    f"A demonstration may also have {', '.join(LABELS)}, or true or false as "
    f"{', '.join(name for name in FLAG_LABELS if name not in LABELS)}: one that they call bad is not learnt.",
    "A column that is not read is named with its count, in a warning where it seems to say something; one that holds "
    "turns, or has one of the names above, drops its row instead. What a mapping of columns leaves out drops none.",
    "An answer is read to the letter, with the space around it, but for the space that a transcript writes around it.",
    "A text in the column prompt is a user's turn where the tokenizer has a chat template, else verbatim, as "
    "text_prompts says; beside several answers, or answers that are turns, it is a user's turn anyway.",
    "Where a file has nothing that may be the prompt, it is what chosen and rejected begin with in common: up to the "
    "last mark of an answer, the first word that differs, or, in scripts without spaces, the last end of a sentence "
    "(else the first character that differs, and the rows are counted).",
)
IDS_TITLE = "Rows that are tokenised already"
IDS_NOTES = (
    "Beside a column of ids stand, under its name's other half, labels (-100 where no loss is, unshifted), "
    "attention_mask and mask, as chosen_labels of chosen_input_ids; beside input_ids or a single answer also "
    f"{', '.join(MASKS)}.",
    f"{', '.join(GOOD_OR_BAD)} say whether a single answer is a good one; scores, margin and grade stand beside "
    "several, as beside text.",
    "Where the answers of most rows begin with the ids of their prompt, they are whole sequences: the prompt is taken "
    "off, and the rows are counted.",
    "The ids are those of the model's own tokenizer; no stop token is added.",
)


def main(argv: Sequence[str]) -> int:
    """Print the table; always 0."""
    if _parser().parse_args(list(argv)).markdown:
        print(markdown(), end="")
    else:
        show(Console())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prefopt data formats", description="List the formats of rows that are recognised, and what is read."
    )
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, as in docs/formats.md")
    return parser


def show(console: Console) -> None:
    """The table as text, made for a terminal 80 columns wide."""
    for kind, adapters in _by_kind().items():
        table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
        for adapter in adapters:
            table.add_row(adapter.name, adapter.fields, style=None)
        console.print(TITLES[kind], style="bold")
        console.print(table, "", sep="\n", markup=False)
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    for columns, what in FORMS:
        table.add_row(columns, what)
    console.print(IDS_TITLE, style="bold")
    console.print(table, "", sep="\n", markup=False)
    for note in (*NOTES, *IDS_NOTES):
        console.print(note, markup=False)


def markdown() -> str:
    """The table with its sources, as a page."""
    lines = [
        "# Formats of rows",
        "",
        "`prefopt data formats --markdown` prints this page. `--adapter NAME` reads rows as one of these formats;",
        "without it the format is recognised. `--columns prompt=question chosen=good rejected=bad` reads any others,",
        "`--columns prompt=question response_a=first response_b=second winner=pick` two answers and a column that",
        "names the better one, by its column's name or ending. Any column in the tables of text may be mapped.",
        "",
        *(f"- {note}" for note in NOTES),
    ]
    for kind, adapters in _by_kind().items():
        lines += ["", f"## {TITLES[kind]}", "", "| format | columns | not read | source |", "| --- | --- | --- | --- |"]
        lines += map(_line, adapters)
    lines += ["", f"## {IDS_TITLE}", "", "| columns | what they are |", "| --- | --- |"]
    lines += [f"| {columns} | {what} |" for columns, what in FORMS]
    lines += ["", *(f"- {note}" for note in IDS_NOTES)]
    return "\n".join(lines) + "\n"


def _line(adapter: Adapter) -> str:
    source = f"<{adapter.source}>" if adapter.source else "no one publisher: names that several use"
    return f"| `{adapter.name}` | {adapter.fields} | {adapter.unread} | {source} |"


def _by_kind() -> dict[str, list[Adapter]]:
    return {kind: [adapter for adapter in REGISTRY.values() if adapter.kind == kind] for kind in KINDS}

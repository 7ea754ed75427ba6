"""`prefopt data check`: reads the arguments and prints what `prefopt.data.check` finds in the files."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..data.adapters import catalogue
from ..data.check import UNREADABLE, FileReport, LengthBias, Report, check
from ..data.loading import Reading
from ..data.mapping import parsed_columns
from ..data.records import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORDS = {
    "duplicate_rows": "exact duplicates of an earlier row",
    "prompts_cut": "prompts cut to fit max_length",
    "eos_lost": "answers that lose their EOS to max_length",
    "boundary_merges": "answers whose first token would merge with the prompt's last",
    "template_mismatches": "answers the chat template renders otherwise in the whole conversation",
    "answers_dropped": "later answers dropped, as the chat template rewrites an earlier one",
    "special_tokens_kept": "rows whose prompt (or bare text) spells a special token, and so gets a real one",
    "special_tokens_split": "rows whose answer (or plain prompt) spells a special token, kept as text",
    "doubled_bos": "prompts that bring their own BOS",
    "doubled_eos": "answers that bring their own EOS",
}


def main(argv: Sequence[str]) -> int:
    """Check the files that the arguments name; 0 clean, 1 something was dropped, 2 something could not be read."""
    args = _parser().parse_args(list(argv))
    try:
        reading = Reading(args.adapter, args.split, args.strict, parsed_columns(args.columns))
        report = check(args.files, reading, _tokenizer(args.tokenizer), args.max_length)
    except DataError as error:
        _complain(str(error), args.json)
        return UNREADABLE
    if args.json:
        print(json.dumps(report.to_dict(), ensure_ascii=False, indent=2))
    else:
        show(report, Console())
    return report.exit_code


def _complain(error: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"exit_code": UNREADABLE, "error": error}, ensure_ascii=False))
    else:
        print(f"error: {error}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prefopt data check",
        description="Look for what spoils training: rows that cannot be used, answers cut off, duplicates, leaks.",
        epilog="Exit code: 0 clean, 1 something was dropped, 2 a file could not be read.\n\nadapters:\n" + catalogue(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a data file, a folder or a hub id; two to compare them"
    )
    parser.add_argument(
        "--adapter",
        default="auto",
        help="how to read the rows: auto (default) recognises the format; or a name below, or module:name of your own",
    )
    parser.add_argument("--split", default="train", help="which split to read, where a file or folder has several")
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="NAME=COLUMN",
        help="columns under names of your own: prompt=question chosen=good rejected=bad",
    )
    parser.add_argument("--tokenizer", help="a model path or hub id: also check what happens on the way to token ids")
    parser.add_argument("--max_length", type=int, help="with --tokenizer: the longest sequence in tokens")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--strict", action="store_true", help="stop at the first row that cannot be used (exit code 2)")
    return parser


def _tokenizer(name: str | None) -> "PreTrainedTokenizerBase | None":
    if name is None:
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DataError(f"--tokenizer {name}: no tokenizer can be loaded from there: {error}") from error


def show(report: Report, console: Console) -> None:
    """The report as text, made for a terminal 80 columns wide."""
    for file in report.files:
        _show_file(file, console)
    for (name, other), finding in report.shared.items():
        table = _table()
        _line(table, "yellow", finding.count, "prompts that both files hold", finding.examples)
        console.print(Text(f"{Path(name).name} and {Path(other).name}", style="bold"), table, sep="\n")
    dropped = sum(file.load.dropped.total() for file in report.files)
    console.print(
        Text(f"{dropped:,} dropped", style="red") if dropped else Text("clean: nothing was dropped", style="green")
    )


def _show_file(file: FileReport, console: Console) -> None:
    load, table = file.load, _table()
    for counter, word, colour in (
        (load.dropped, "dropped", "red"),
        (load.repaired, "repaired", "yellow"),
        (load.noted, "noted", "yellow"),
    ):
        for reason, count in counter.most_common():
            _line(table, colour, count, f"{word}: {reason}", load.examples[reason])
    for name, finding in file.findings.items():
        _line(table, "yellow", finding.count, WORDS[name], finding.examples)
    console.print(Text(Path(load.source).name, style="bold"), Text(f"read as {load.adapter}"))
    console.print(f"{load.rows:,} rows, {load.kept:,} kept, {load.dropped.total():,} dropped", table, sep="\n")
    if file.length is not None:
        console.print(Text(_length_line(file.length)))
    console.print()


def _table() -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=3)
    table.add_column(ratio=2, overflow="fold")
    return table


def _line(table: Table, colour: str, count: int, what: str, places: list[str]) -> None:
    table.add_row(Text(f"{count:,}"), Text(what), Text(_where(places)), style=colour if count else "dim")


def _where(places: list[str]) -> str:
    """Places without folders, and each file named once: "rows.jsonl:3, :7"."""
    shown: list[str] = []
    last = ""
    for place in places:
        short = re.sub(r"\S*/", "", place)
        name = short.partition(":")[0]
        shown.append(short.removeprefix(name) if name == last else short)
        last = name
    return ", ".join(shown)


def _length_line(bias: LengthBias) -> str:
    share = f"The chosen answer is the longer one in {bias.share:.1%} of {bias.pairs:,} pairs"
    return (
        f"{share} (95 % interval {bias.low:.1%} to {bias.high:.1%}; correlation with length {bias.correlation:+.2f})."
    )

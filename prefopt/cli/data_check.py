"""`prefopt data check`: reads the arguments and prints what `prefopt.data.check` finds in the files."""

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from rich.console import Console

from ..data.adapters import catalogue
from ..data.check import check
from ..data.findings import UNREADABLE
from ..data.loading import Reading
from ..data.mapping import parsed_columns
from ..data.records import DataError
from ..data.template_variables import set_template_defaults
from ..data.text_prompts import MODES
from ..utils.visible import visible_json
from .console import said
from .data_report import show

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEVELS = """\
Errors are rows that were dropped or cannot be encoded, pairs whose answers are
the same once encoded, and rows that say the opposite of an earlier one. All
else that is found is a thing to look at: say, answers that lose their end, odd
scores, repaired or repeated rows. The last line counts both, and says "clean"
only where there is neither. Exit code: 0 no errors (though there may be things
to look at), 1 errors, 2 a file could not be read."""


def main(argv: Sequence[str]) -> int:
    """Check the files that the arguments name; 0 no errors, 1 rows are faulty, 2 something could not be read."""
    parser = _parser()
    args = parser.parse_args(list(argv))
    _take_files(args)
    if not args.files:
        parser.error("the following arguments are required: FILE")
    try:
        reading = Reading(args.adapter, args.split, args.strict, parsed_columns(args.columns))
        if args.max_length is not None and args.tokenizer is None:
            raise DataError(
                "--max_length counts tokens: add --tokenizer, the model path or hub id whose tokens they are"
            )
        if args.chat_template_kwargs is not None and args.tokenizer is None:
            raise DataError("--chat_template_kwargs is for a chat template: add --tokenizer, the model that has it")
        tokenizer = _tokenizer(args.tokenizer)
        if tokenizer is not None:
            set_template_defaults(tokenizer, args.chat_template_kwargs)
        with _report_alone():
            report = check(
                args.files, reading, tokenizer, args.max_length, args.text_prompts, progress=sys.stderr.isatty()
            )
    except DataError as error:
        _complain(str(error), args.json)
        return UNREADABLE
    if args.json:
        print(visible_json(json.dumps(report.to_dict(), ensure_ascii=False, indent=2)))
    else:
        show(report, Console())
    return report.exit_code


def _take_files(args: argparse.Namespace) -> None:
    """Give files that came after --columns, which takes whatever follows it, back their place."""
    words = args.columns or []
    names_files = not args.files
    files = [word for word in words if "=" not in word and (names_files or Path(word).exists())]
    args.files += files
    args.columns = [word for word in words if word not in files]


@contextmanager
def _report_alone() -> Iterator[None]:
    """Leave to the report what the log and other progress bars would say of prompts in plain text."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    log, shown = logging.getLogger("prefopt.data.text_prompts"), not are_progress_bars_disabled()
    level = log.level
    log.setLevel(logging.ERROR)
    disable_progress_bars()
    try:
        yield
    finally:
        log.setLevel(level)
        if shown:
            enable_progress_bars()


def _complain(error: str, as_json: bool) -> None:
    if as_json:
        print(visible_json(json.dumps({"exit_code": UNREADABLE, "error": error}, ensure_ascii=False)))
    else:
        text = f"error: {said(error)}"
        if sys.stderr.isatty():  # where lines would else be broken within words
            width = shutil.get_terminal_size().columns
            text = "\n".join(fill(line, width, break_long_words=False) for line in text.splitlines())
        print(text, file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prefopt data check",
        description="Say what rows a dataset holds, show one as it is trained on, and look for what\n"
        "spoils training: rows that cannot be used, contradict others or are cut off,\nduplicates, leaks.",
        epilog=f"{LEVELS}\n\nadapters:\n{catalogue()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="a data file, a folder or a hub id; two to compare them"
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
        help="columns under names of your own: prompt=question chosen=good rejected=bad; or, of two answers, "
        "prompt=question response_a=first response_b=second winner=pick",
    )
    parser.add_argument("--tokenizer", help="a model path or hub id: also check what happens on the way to token ids")
    parser.add_argument(
        "--chat_template_kwargs",
        metavar="JSON",
        help="with --tokenizer: values of variables that its chat template reads, as in training",
    )
    parser.add_argument("--max_length", type=int, help="with --tokenizer: the longest sequence in tokens")
    parser.add_argument(
        "--text_prompts",
        choices=MODES,
        default="auto",
        help="what a prompt of bare text is, as in training: a user's turn, text to go on with verbatim, or auto "
        "(default): a user's turn where the tokenizer has a chat template",
    )
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

"""`prefopt label import`: what annotators sent back in, rows of preferences out, and how far to trust them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

SEVERAL = ("majority", "weights", "all")
ROWS, REPORT = "preferences.jsonl", "report.json"
ABOUT = """\
Add the labels of files to a folder that `prefopt label export` wrote, and write all that it has so far as pairs to
train on: FOLDER/preferences.jsonl, with grades, which `prefopt reward` and `prefopt dpo` take. Files may cover a part,
overlap, and come again: nothing is counted twice. Without files, the rows are made anew of what is there.
"""
FILES = """\
files: what the page saved; csv, jsonl or xlsx with the columns pair_id, choice, grade, note, annotator; exports of
Label Studio (JSON, JSON_MIN, CSV, TSV) and Argilla (to_list(flatten=True) as JSON, which says what was discarded).
"""


def main(argv: Sequence[str]) -> int:
    """Import and say what was found; 0 once it is written."""
    args = _parser().parse_args(list(argv))
    from ..candidates.selection import write_rows
    from ..labelling.importing import import_labels
    from ..utils import files

    folder = Path(args.folder)
    labels = import_labels(
        folder,
        args.files,
        several=args.several,
        weights={name: _number(name, value) for name, value in _pairs(args.weights, "--weights").items()},
        annotator=args.annotator,
        columns=_pairs(args.columns, "--columns"),
        words=_pairs(args.words, "--words"),
    )
    rows = Path(args.output) if args.output else folder / ROWS
    write_rows(rows, labels.rows)
    files.replace(folder / REPORT, json.dumps(labels.report.to_dict(), ensure_ascii=False, indent=2) + "\n")
    print("\n".join(labels.report.lines()))
    print(f"  preferences  {rows}\n  report       {folder / REPORT}")
    return 0


def _pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """NAME=VALUE words; the last = parts them, for names may hold one."""
    found = {}
    for word in given:
        name, equals, value = word.rpartition("=")
        if not (name and equals and value):
            raise ValueError(f"{option} {word}: expected NAME=VALUE")
        found[name] = value
    return found


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"--weights {name}={value}: expected a number") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prefopt label import",
        description=ABOUT,
        epilog=FILES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="where `prefopt label export` wrote")
    add("files", nargs="*", metavar="FILE", help="what annotators sent back")
    add("--several", choices=SEVERAL, default="majority", help="pairs of several annotators (%(default)s)")
    add("--weights", nargs="+", default=[], metavar="NAME=NUMBER", help="with --several weights; others have 1")
    add("--annotator", metavar="NAME", help="who labelled, where a file does not say it")
    add("--columns", nargs="+", default=[], metavar="NAME=COLUMN", help="what a file calls pair_id, choice, grade, ...")
    add("--words", nargs="+", default=[], metavar="WORD=LABEL", help='what other labels mean: 7="B slightly"')
    add("--output", metavar="FILE", help=f"where the preferences go (FOLDER/{ROWS})")
    return parser

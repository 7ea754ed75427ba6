"""`prefopt migrate`: a script for TRL, or a file of LLaMA-Factory, as prefopt runs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..utils.visible import visible
from .command import Command

ABOUT = """\
Print a Python script for TRL (0.7 to 1.16) edited for prefopt, or the prefopt command that trains what a YAML file of
LLaMA-Factory asks for (stages sft, rm, dpo, kto, ppo). What was changed, and what is left to do by hand, goes to
standard error, line by line. Nothing is run, and the file stays as it is.
"""
EXAMPLE = """\
  prefopt migrate train_dpo.py > train_dpo_prefopt.py
  prefopt migrate llama3_lora_dpo.yaml

exit code: 0 nothing is left to do, 1 something is left to do by hand, 2 the file is neither
"""


def main(command: Command, prog: str, argv: Sequence[str]) -> int:
    """Parse, migrate, print; returns the exit code."""
    args = _parser(prog).parse_args(list(argv))
    from ..migrate import migrated_file, migrated_script

    path = Path(args.file).expanduser()
    if path.suffix in (".yaml", ".yml", ".json"):
        found = migrated_file(path)
    else:
        try:
            found = migrated_script(path.read_text(encoding="utf-8"))
        except SyntaxError as error:
            raise ValueError(f"{path}: line {error.lineno}: no Python: {error.msg}") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    print(found.text, end="")
    for note in found.notes:
        print(visible(f"{path}:{note.line}: {'TO DO: ' if note.by_hand else ''}{note.text}"), file=sys.stderr)
    return 0 if found.whole else 1


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=ABOUT, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE", help="a script (.py), or a file of LLaMA-Factory (.yaml, .json)")
    return parser

"""`prefopt doctor`: says what is wrong with the runs in a folder, by the list of checks that trainers end with."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..utils.visible import visible
from .command import Command

ABOUT = """\
Say what is wrong with a run, and what to do about it: a folder of `prefopt dpo` and the like, finished or not, one of
`prefopt compare`, or any in which there are such folders. Only what runs have logged is read; no model is loaded.
"""
EXIT = "exit code: 0 nothing is wrong, 1 something is, 2 there is no run to look at, or its files are damaged"
SUMMARY = {
    "en": {"healthy": "nothing is wrong", "count": "{sick} of {runs} runs have something wrong with them"},
    "zh": {"healthy": "没有发现问题", "count": "{runs} 个运行中有 {sick} 个存在问题"},
}


def main(command: Command, prog: str, argv: Sequence[str]) -> int:
    """Parse, read, print; returns the exit code."""
    args = _parser(prog).parse_args(list(argv))
    from ..doctor.checks import diagnose
    from ..training.run_files import runs_in

    words = SUMMARY[args.lang]
    runs = [(_called(folder, name, args.folders), run) for folder in args.folders for name, run in runs_in(folder)]
    found = [(name, diagnose(run)) for name, run in runs]
    for name, sicknesses in found:
        for sickness in sicknesses:
            print(visible(f"{name}: {sickness.name}: {sickness.text(args.lang)}"))
        if not sicknesses:
            print(visible(f"{name}: {words['healthy']}"))
    sick = sum(bool(sicknesses) for _, sicknesses in found)
    if len(found) > 1:
        print(words["count"].format(sick=sick, runs=len(found)))
    return 1 if sick else 0


def _called(folder: str, name: str, folders: Sequence[str]) -> str:
    """A run's name within the folder, with the folder's own where several are asked about."""
    return name if len(folders) == 1 else str(Path(folder) / name)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=ABOUT, epilog=EXIT)
    parser.add_argument("folders", nargs="+", metavar="RUN", help="an output_dir, of training or of a comparison")
    parser.add_argument("--lang", choices=list(SUMMARY), default="en", help="language of what is said (%(default)s)")
    return parser

"""`prefopt doctor`: says what is wrong with the runs in a folder, by the list of checks that trainers end with."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.visible import one_line
from .command import Command

if TYPE_CHECKING:
    from ..doctor.checks import Sickness
    from ..doctor.run import Run

ABOUT = """\
Say what is wrong with a run, and what to do about it: a folder of `prefopt dpo` and the like, finished or not, one of
`prefopt compare`, or any in which there are such folders. Only what runs have logged is read; no model is loaded.
"""
EXIT = "exit code: 0 nothing is wrong, 1 something is, 2 there is no run to look at, or its files are damaged"
WORDS = {
    "en": {
        "healthy": "nothing is wrong in what was logged{of}",
        "unknown": "nothing was logged, and so nothing is known to be wrong",
        "of": " ({parts})",
        "steps": "steps: {count:,}",
        "rollouts": "rollouts: {count:,}",
        "iterations": "iterations: {count:,}",
        "comma": ", ",
        "count": "{sick:,} of {runs:,} runs have something wrong with them",
    },
    "zh": {
        "healthy": "从日志里没有发现问题{of}",
        "unknown": "没有任何日志，无从判断",
        "of": "（{parts}）",
        "steps": "{count:,} 步",
        "rollouts": "{count:,} 轮采样",
        "iterations": "{count:,} 次迭代",
        "comma": "，",
        "count": "{runs:,} 个运行中有 {sick:,} 个存在问题",
    },
}


def main(command: Command, prog: str, argv: Sequence[str]) -> int:
    """Parse, read, print; returns the exit code."""
    args = _parser(prog).parse_args(list(argv))
    from ..doctor.checks import diagnose
    from ..training.run_files import runs_in

    words = WORDS[args.lang]
    runs = [(_called(folder, name, args.folders), run) for folder in args.folders for name, run in runs_in(folder)]
    found = [(name, run, diagnose(run)) for name, run in runs]
    for name, run, sicknesses in found:
        for sickness in sicknesses:
            _show(name, sickness, args.lang)
        if not sicknesses:
            print(one_line(f"{name}: {_unsuspicious(run, args.lang)}"))
    sick = sum(bool(sicknesses) for *_, sicknesses in found)
    if len(found) > 1:
        print(words["count"].format(sick=sick, runs=len(found)))
    return 1 if sick else 0


def _called(folder: str, name: str, folders: Sequence[str]) -> str:
    """A run's name within the folder, with the folder's own where several are asked about or the folder is the run."""
    if len(folders) > 1:
        return str(Path(folder) / name)
    return Path(folder).expanduser().resolve().name if name == "." else name


def _show(name: str, sickness: Sickness, lang: str) -> None:
    """In one line, for another program or a search; on a terminal in paragraphs of its width."""
    if not sys.stdout.isatty():
        return print(one_line(f"{name}: {sickness.name}: {sickness.text(lang)}"))
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    # Of a terminal that calls itself dumb, rich does not look at the width.
    size = shutil.get_terminal_size()  # of both: rich takes a dumb terminal to have 80 columns if one is not given
    console = Console(file=sys.stdout, highlight=False, width=size.columns, height=size.lines)
    console.print(Text(one_line(f"{name}: {sickness.name}")))
    for part in sickness.parts(lang):
        console.print(Padding(Text(one_line(part)), (0, 0, 0, 2), expand=False))


def _unsuspicious(run: Run, lang: str) -> str:
    """That nothing was found, and how much of the run there was to look at."""
    words = WORDS[lang]
    counts = {"steps": run.steps, "rollouts": len(run.rollouts), "iterations": len(run.iterations)}
    parts = [words[name].format(count=count) for name, count in counts.items() if count]
    return (
        words["healthy"].format(of=words["of"].format(parts=words["comma"].join(parts))) if parts else words["unknown"]
    )


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=ABOUT, epilog=EXIT)
    parser.add_argument("folders", nargs="+", metavar="RUN", help="an output_dir, of training or of a comparison")
    parser.add_argument("--lang", choices=list(WORDS), default="en", help="language of what is said (%(default)s)")
    return parser

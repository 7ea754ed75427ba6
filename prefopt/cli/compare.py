"""`prefopt compare`: reads the arguments and says where the report is. `prefopt.compare` does the work."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace

from ..utils.signals import GRACE
from .command import Command

ABOUT = """\
Train every method of a plan with every seed from the same start on the same rows, evaluate all of them on the same
held-out prompts, and write a report: OUTPUT_DIR/report/report.html, and the same as Markdown and JSON. What is done is
not done again: run the same command to go on after a kill, after a failure, or with a longer plan.
"""
EXAMPLE = """\
a plan:
  policy: Qwen/Qwen3-0.6B
  data: {train: pairs.jsonl, test: held_out.jsonl}
  reward: {learning_rate: 1e-5}
  methods:
    dpo: {learning_rate: 5e-7, beta: 0.1}
    simpo: {learning_rate: 5e-7}
    best-of-n: {n: 8}
  seeds: [0, 1, 2, 3, 4]

exit code: 0 all is done, 1 something failed and is said in the report, 2 nothing could be begun, 143 SIGTERM,
129 SIGHUP, 130 Ctrl-C: run the same command to go on
"""


def main(command: Command, prog: str, argv: Sequence[str]) -> int:
    """Parse, compare, print; returns the exit code."""
    args = _parser(prog).parse_args(list(argv))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("compare starts processes of its own, one for each GPU: run it without torchrun")
    from rich.console import Console

    from ..compare.plan import read_plan
    from ..compare.report import print_summary
    from ..compare.run import compare

    plan = read_plan(args.plan)
    plan = plan if args.seeds is None else replace(plan, seeds=tuple(args.seeds))
    console = Console()
    options = {name: getattr(args, name) for name in ("jobs", "lang", "keep_going", "report_only", "signal_grace")}
    findings = compare(plan, args.output_dir, console=console, **options)
    print_summary(findings, console, args.lang)
    console.print(f"{args.output_dir}/report/report.html", soft_wrap=True, highlight=False, markup=False)
    return 1 if findings.failures else 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=ABOUT, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("plan", metavar="PLAN.yaml", help="what to compare; examples/ has some")
    add("--output_dir", default="compare-output", help="where everything goes (%(default)s)")
    add("--jobs", type=int, help="processes at a time (one for each GPU)")
    add("--seeds", type=int, nargs="+", help="instead of the plan's")
    add("--lang", choices=["en", "zh"], default="en", help="language of the report (%(default)s)")
    add("--keep_going", action="store_true", help="leave out methods that do not exist, and say so in the report")
    add("--report_only", action="store_true", help="report on what is done, and do nothing else")
    add(
        "--signal_grace",
        type=float,
        default=GRACE,
        help="on SIGTERM, SIGHUP and Ctrl-C trainings save a checkpoint, within so many seconds (%(default)g)",
    )
    return parser

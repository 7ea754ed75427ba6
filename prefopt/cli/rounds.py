"""`prefopt rounds`: does the rounds of a plan, says how far they are, and writes the report."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace

from ..utils.signals import GRACE
from .command import Command

ABOUT = """\
Do the rounds of a plan: label, refresh the reward model, sample, score, select, train, evaluate. Each round ends with a
version of the policy, OUTPUT_DIR/rlhf-vN/policy, and a report says what every version is worth and where it comes from.
What is done is not done again: run the same command to go on after a kill, after a failure, when labels have come, or
with more rounds.
"""
EXAMPLE = """\
a plan:
  policy: Qwen/Qwen3-0.6B
  data: {train: pairs.jsonl, test: held_out.jsonl}
  round:
    prompts: {label: 200, sample: 1000}
    label: {by: people}
    reward: {learning_rate: 1e-5, margin: small}
    sample: {responses_per_prompt: 8, temperatures: [0.8, 1.0, 1.2]}
    train: {method: rejection-sampling, learning_rate: 1e-5}
  rounds: 4

exit code: 0 all is done, 1 something failed, 2 nothing could be begun,
           3 people's labels are awaited
"""
WAITS = 3


def main(command: Command, prog: str, argv: Sequence[str]) -> int:
    """Parse, run, print; returns the exit code."""
    args = _parser(prog).parse_args(list(argv))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("rounds start processes of their own, one for each GPU: run them without torchrun")
    from rich.console import Console

    from ..rounds import read_rounds_plan, results_of, run_rounds, status_of
    from ..rounds.report import print_rounds, write_rounds_report
    from ..rounds.tasks import RoundTasks

    plan = read_rounds_plan(args.plan)
    plan = plan if args.seed is None else replace(plan, seed=args.seed)
    console = Console()
    tasks = RoundTasks(plan)
    if args.status:
        for line in status_of(tasks, args.output_dir):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return 0
    run = run_rounds(plan, args.output_dir, jobs=args.jobs, signal_grace=args.signal_grace, console=console)
    pending = [*run.waits, *(f"{name}: {reason}" for name, reason in run.failures.items())]
    pending += [] if run.stopped is None else [run.stopped]
    try:
        results = results_of(tasks, run.out, pending)
    except ValueError:
        for line in pending:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return 1 if run.failures else WAITS
    page = write_rounds_report(results, run.out / "report", args.lang)
    print_rounds(results, console, args.lang)
    console.print(str(page), soft_wrap=True, highlight=False, markup=False)
    return 1 if run.failures else WAITS if run.waits else 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=ABOUT, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("plan", metavar="PLAN.yaml", help="what the rounds do; examples/rounds/ has some")
    add("--output_dir", default="rounds-output", help="where everything goes (%(default)s)")
    add("--jobs", type=int, help="processes at a time (one for each GPU)")
    add("--seed", type=int, help="instead of the plan's")
    add("--lang", choices=["en", "zh"], default="en", help="language of the report (%(default)s)")
    add(
        "--signal_grace",
        type=float,
        default=GRACE,
        help="on SIGTERM, SIGHUP and Ctrl-C trainings save a checkpoint, within so many seconds (%(default)g)",
    )
    add("--status", action="store_true", help="say which stages are done and what comes next, and do nothing")
    return parser

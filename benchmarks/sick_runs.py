"""Runs made sick on purpose, and healthy ones beside them: what the doctor says of each (`prefopt doctor`).

    python -m benchmarks.sick_runs --output_dir out/sick                        # what the thresholds were fixed on
    python -m benchmarks.sick_runs --output_dir out/sick --unseen --seeds 1 2   # other settings
    python -m benchmarks.sick_runs --output_dir out/sick --model PATH           # a real chat model, a few steps

All are on the built-in small world, seconds each, on policies and reward models of their own seed (`sick_world.py`). A
line says what was said of a run (`sick_cases.py` says what is expected), a table ends it, and the exit code is 1 where
these differ. Nothing of what is expected is known to the checks.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefopt.doctor.checks import diagnose
from prefopt.training.run_files import read_run

from .sick_cases import FIXED, REAL, REFUSED, UNSEEN, Case
from .sick_world import World, quietly


def said_of(case: Case, world: World, out: Path) -> list[str]:
    """The names of what the doctor finds in the folder; before them, of a run that was refused or stopped, why."""
    why = []
    try:
        trainer = case.make(world, out, **case.settings)
        quietly(trainer)
    except (ValueError, FloatingPointError) as error:
        why = [REFUSED, str(error)]
    return why + [sickness.name for sickness in diagnose(read_run(out))]


def is_right(expected: Iterable[str], said: Sequence[str]) -> bool:
    """Whether one of what is expected was said, or nothing where nothing is expected."""
    return bool(set(said) & set(expected)) if expected else not said


def table(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Markdown: of each case how many of its seeds were told or silent, and what was said."""
    cases: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        cases.setdefault(record["case"], []).append(record)
    lines = ["| run | right | said |", "|---|---|---|"]
    for name, runs in cases.items():
        names = sorted({word for run in runs for word in run["said"] if " " not in word})
        state = "told" if runs[0]["expected"] else "silent"
        right = sum(run["right"] for run in runs)
        lines.append(f"| {name} | {right} of {len(runs)} {state} | {', '.join(names) or 'nothing'} |")
    return lines


def main() -> int:
    args = _parsed()
    logging.getLogger("prefopt").setLevel(logging.ERROR)
    wanted = args.cases or (REAL if args.model else ())
    cases = [case for case in (UNSEEN if args.unseen else FIXED) if not wanted or case.name in wanted]
    args.output_dir.mkdir(parents=True, exist_ok=True)
    records = []
    for case in cases:
        for seed in args.seeds:
            out = args.output_dir / f"{case.name.replace(' ', '-')}-{seed}{'-unseen' if args.unseen else ''}"
            began = time.monotonic()
            said = said_of(case, World(args.output_dir / "models", seed, args.model), out)
            right, seconds = is_right(case.expected, said), round(time.monotonic() - began, 1)
            record = {"case": case.name, "seed": seed, "right": right, "said": said, "expected": sorted(case.expected)}
            with (args.output_dir / "said.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({**record, "seconds": seconds}, ensure_ascii=False) + "\n")
            records.append(record)
            words = "; ".join(said)
            print(f"{'ok   ' if right else 'WRONG'} {case.name:<28} seed {seed} {seconds:5.1f} s  {words}", flush=True)
    print("\n".join(table(records)))
    sick, healthy = ([each["right"] for each in records if bool(each["expected"]) is kind] for kind in (True, False))
    print(f"sick: {sum(sick)} of {len(sick)} told; healthy: {sum(healthy)} of {len(healthy)} silent")
    return 0 if all(sick + healthy) else 1


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output_dir", type=Path, default=Path("out/sick"))
    add("--seeds", type=int, nargs="+", default=[0])
    add("--unseen", action="store_true", help="other settings than those that the thresholds were fixed on")
    add("--model", help="a chat model's folder, trained a few steps, in place of the small world's policy")
    add("--cases", nargs="+", metavar="CASE", help="names of cases; all if left out")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())

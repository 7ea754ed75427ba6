"""Llama 2's margins: does a reward model rank graded pairs better for them? In the small world, by grade, over seeds.

    python -m benchmarks.margin --output_dir out/findings        # beside findings.yaml, whose SFT policies it takes

Llama 2 (arXiv:2307.09288, Table 28) reports what a margin gains over none, by grade: 1.3, .4, .6 and .5 points the
small one, 1.6, .6, .7 and -.2 the large one.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from prefopt.compare import compare_methods, read_plan
from prefopt.compare.run import Tasks
from prefopt.grades import GRADES
from prefopt.tasks import Progress, Schedule

PLAN = Path(__file__).with_name("findings.yaml")
MARGINS = ("none", "small", "large")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("out/findings"))
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    show({margin: ranked(margin, args.output_dir.resolve(), args.jobs) for margin in MARGINS})


def ranked(margin: str, out: Path, jobs: int) -> dict[str, np.ndarray]:
    """Grade -> whether each held-out pair of it is ranked right, with each seed: [seeds, pairs]."""
    plan = read_plan(PLAN)
    assert isinstance(plan.reward, Mapping)
    plan = replace(plan, reward={**plan.reward, "margin": margin})
    tasks = [task for seed in plan.seeds if (task := Tasks(plan).evaluate_reward_model(seed))]
    with Progress(Console(), out, jobs) as progress:
        Schedule(out, jobs, progress).run(tasks)
    read = [pd.read_parquet(task.folder(out) / "pairs.parquet").sort_values("pair") for task in tasks]
    grades = read[0]["grade"].to_numpy()
    correct = np.stack([each["correct"].to_numpy() for each in read])
    return {grade: correct[:, grades == grade] for grade in GRADES} | {"all": correct}


def show(found: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    seeds = len(found["none"]["all"])
    table = Table(
        title=f"Held-out pairs ranked right, {seeds} seeds; gains over no margin in points [95 % over seeds and pairs]",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    for name in ("grade", "pairs", "none", "small", "gain", "large", "gain"):
        table.add_column(name, justify="left" if name == "grade" else "right", no_wrap=True)
    for grade in (*GRADES, "all"):
        base = found["none"][grade]
        cells = [grade, str(base.shape[1]), f"{base.mean():.1%}"]
        for margin in MARGINS[1:]:
            cells += [f"{found[margin][grade].mean():.1%}", gain(found[margin][grade], base)]
        table.add_row(*cells)
    Console().print(table)


def gain(correct: np.ndarray, base: np.ndarray) -> str:
    """In percentage points."""
    found = compare_methods(correct, base)
    mean, low, high = (100 * value for value in (found.mean, *found.interval))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


if __name__ == "__main__":
    main()

"""What sampled responses were worth, printed: a table for people and where everything is. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..candidates.order_statistics import STATISTICS
from ..utils.visible import visible


def show(report: dict[str, Any], new: int) -> None:
    """How many responses there are, and the expected maximum, mean and median score of N of them."""
    console = _console()
    console.print(
        f"\n{report['responses']:,} responses to {report['prompts']:,} prompts, {new:,} of them new; "
        f"{report['unfinished']:.1%} truncated"
    )
    if report["unanswered"]:
        console.print(f"prompts without a response that ends by itself and says something: {report['unanswered']:,}")
    scorer = visible(report["scorer"]["name"])
    console.print(f"\nExpected score of N responses by {scorer}, ± its 95 % interval over prompts")
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("N", *STATISTICS):
        table.add_column(name, justify="right")
    for n, curve in report["rewards"].items():
        table.add_row(n, *(_estimate(curve[name]) for name in STATISTICS))
    console.print(table)


def _estimate(values: Sequence[float | None]) -> str:
    """Mean and half of the interval around it; one prompt has none."""
    mean, low, high = values
    return f"{mean:.3g}" if low is None or high is None else f"{mean:.3g} ± {(high - low) / 2:.2g}"


def places(lines: Iterable[tuple[str, str]], folder: Path) -> None:
    """Where to find what; files that are there, in the folder."""
    found = [(label, folder / name) for label, name in [*lines, ("picture", "rewards.png"), ("responses", "pool")]]
    there = [(label, path) for label, path in found if path.exists()]
    width = max(len(label) for label, _ in there)
    for label, path in there:
        _console().print(f"  {label:<{width}}  {path}")


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)  # paths are there to be copied

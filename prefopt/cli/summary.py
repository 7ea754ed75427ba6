"""The last words of a training command: what was learnt and where everything is. Knows no method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .rows import Rows

TIMING = ("runtime", "per_second", "flos", "epoch")


def summary(trainer: Any, rows: Rows, metrics: dict[str, float]) -> None:
    """Print a small table to the terminal."""
    console, out = Console(highlight=False), Path(trainer.args.output_dir)
    table = Table.grid(padding=(0, 2))
    for label, value in [*_run(trainer, rows, metrics), *_numbers(metrics), *_places(trainer, out)]:
        table.add_row(label, value)
    console.print()
    console.print(f"{type(trainer).__name__.removesuffix('Trainer')} training is done", style="bold")
    console.print(table)


def _run(trainer: Any, rows: Rows, metrics: dict[str, float]) -> list[tuple[str, str]]:
    dropped = rows.report.dropped.total()
    note = f", {dropped:,} dropped" if dropped else ""
    held = f", {len(rows.evaluation):,} held out" if rows.evaluation is not None else ""
    return [
        ("rows", f"{len(rows.train):,} trained on{held}{note}"),
        ("steps", f"{trainer.state.global_step:,} in {_time(metrics.get('train_runtime', 0.0))}"),
    ]


def _time(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _numbers(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """Losses, and what was measured on held-out rows."""
    shown = {name: value for name, value in metrics.items() if name == "train_loss" or name.startswith("eval_")}
    return [(name, f"{value:.4g}") for name, value in shown.items() if not any(word in name for word in TIMING)]


def _places(trainer: Any, out: Path) -> list[tuple[str, str]]:
    adapter = (out / "adapter_config.json").is_file()
    checkpoints = len(list(out.glob("checkpoint-*")))
    places = [("adapter" if adapter else "model", str(out)), ("metrics", str(out / "all_results.json"))]
    return [*places, ("checkpoints", f"{out}/checkpoint-* ({checkpoints})")] if checkpoints else places

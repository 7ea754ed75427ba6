"""The last words of a training command: what was learnt and where everything is. Knows no method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from ..data.row_encoder import COUNTS, NOTES
from ..training.metrics import encoding_counts
from ..training.out_of_memory import IN_PARTS
from ..utils.visible import visible
from .rows import Rows

PICTURES = ("rewards.png", "rollouts.png")
TIMING = ("runtime", "per_second", "flos", "epoch")


def summary(trainer: Any, rows: Rows, metrics: dict[str, float]) -> None:
    """Print what was done, measured and written, a line each."""
    console, out = Console(highlight=False, markup=False, soft_wrap=True), Path(trainer.args.output_dir)
    lines = [
        *_run(trainer, rows, metrics),
        *_encoding(metrics),
        *_memory(metrics),
        *_numbers(metrics),
        *_places(out),
        *_responses(trainer, out),
    ]
    width = max(len(label) for label, _ in lines)
    console.print(f"\n{type(trainer).__name__.removesuffix('Trainer')} training is done", style="bold")
    for label, value in lines:
        console.print(f"  {label:<{width}}  {visible(value)}")  # not wrapped: paths are there to be copied


def _run(trainer: Any, rows: Rows, metrics: dict[str, float]) -> list[tuple[str, str]]:
    dropped = rows.report.dropped.total()
    note = f", {dropped:,} dropped" if dropped else ""
    evaluated = f", {len(rows.evaluation):,} held out" if rows.evaluation is not None else ""
    use = "trained on" if trainer.scorer is None else "read for prompts"
    return [
        ("rows", f"{len(rows.train):,} {use}{evaluated}{note}"),
        ("trained by", trainer.launch),
        ("steps", f"{trainer.state.global_step:,} in {_time(metrics.get('train_runtime', 0.0))}"),
    ]


def _encoding(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """What encoding did to the rows that were trained on."""
    counts = encoding_counts(metrics).items()
    return [("encoding", f"{count:,} {NOTES[COUNTS[name]]}") for name, count in counts]


def _memory(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """What memory had no room for."""
    count = int(metrics.get(IN_PARTS, 0))
    return [("memory", f"{count:,} micro-batches were computed in parts, for want of memory")] if count else []


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


def _places(out: Path) -> list[tuple[str, str]]:
    adapter = (out / "adapter_config.json").is_file()
    checkpoints = len(list(out.glob("checkpoint-*")))
    parts = [(name, str(out / name)) for name in ("policy", "critic") if (out / name).is_dir()]
    places = parts or [("adapter" if adapter else "model", str(out))]
    places.append(("metrics", str(out / "all_results.json")))
    return [*places, ("checkpoints", f"{out}/checkpoint-* ({checkpoints})")] if checkpoints else places


def _responses(trainer: Any, out: Path) -> list[tuple[str, str]]:
    """Where a run that sampled responses has them, and what each iteration or rollout made of them."""
    if trainer.scorer is None:
        return []
    done = len(list(out.glob("iteration-*/policy")))
    iterations = [("iterations", f"{out}/iteration-* ({done})")] if done else []
    named = [("responses", "pool"), ("rollouts", "rollouts.jsonl"), *(("picture", name) for name in PICTURES)]
    return [(label, str(out / name)) for label, name in named if (out / name).exists()] + iterations

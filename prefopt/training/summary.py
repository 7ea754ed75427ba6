"""The last words of a training: what was learnt, where everything is, and what to do with it. Knows no method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from ..data.row_encoder import COUNTS, NOTES
from ..utils.visible import visible
from .card import CARD, is_hub_id
from .checkpoint import steps_of
from .metrics import encoding_counts
from .out_of_memory import IN_PARTS

PICTURES = ("rewards.png", "rollouts.png")
TIMING = ("runtime", "per_second", "flos", "epoch")
ACCURACIES = ("accuracy", "rewards/accuracies", "mean_token_accuracy")
Lines = list[tuple[str, str]]


def summary_of(trainer: Any, metrics: Mapping[str, float] | None = None, dropped: int = 0) -> str:
    """What was done, measured and written, and what to do now, a line each.

    Args:
        metrics: of the training and of held-out rows; by default what was logged last of both.
        dropped: rows that could not be read.
    """
    out, history = Path(trainer.args.output_dir), trainer.state.log_history
    measured = _last(history) if metrics is None else metrics
    done = [
        *_run(trainer, measured, dropped),
        *_encoding(measured),
        *_memory(measured),
        *_numbers(measured, history),
        *_places(trainer, out),
        *_responses(trainer, out),
    ]
    title = f"{trainer.lineage.record(metrics=False)['method']} training is done"
    return f"\n{title}\n{_lines(done)}\n\nWhat now\n{_lines(what_now(trainer, out))}"


def _lines(lines: Lines) -> str:
    width = max(len(label) for label, _ in lines)
    return "\n".join(f"  {label:<{width}}  {visible(value)}" for label, value in lines)


def _last(history: list[dict[str, Any]]) -> dict[str, float]:
    """What was logged last of the whole training and of held-out rows."""
    found: dict[str, float] = {}
    for logs in history:
        if "train_runtime" in logs or any(name.startswith("eval_") for name in logs):
            found |= logs
    return found


def _run(trainer: Any, metrics: Mapping[str, float], dropped: int) -> Lines:
    note = f", {dropped:,} dropped" if dropped else ""
    held_out = trainer.eval_dataset
    count = sum(map(len, held_out.values())) if isinstance(held_out, Mapping) else len(held_out or ())
    evaluated = f", {count:,} held out" if count else ""
    use = "trained on" if trainer.scorer is None else "read for prompts"
    return [
        ("rows", f"{len(trainer.train_dataset):,} {use}{evaluated}{note}"),
        ("trained by", trainer.launch),
        ("steps", f"{trainer.state.global_step:,} in {_time(metrics.get('train_runtime', 0.0))}"),
    ]


def _encoding(metrics: Mapping[str, float]) -> Lines:
    """What encoding did to the rows that were trained on."""
    counts = encoding_counts(metrics).items()
    return [("encoding", f"{count:,} {NOTES[COUNTS[name]]}") for name, count in counts]


def _memory(metrics: Mapping[str, float]) -> Lines:
    """What memory had no room for."""
    count = int(metrics.get(IN_PARTS, 0))
    return [("memory", f"{count:,} micro-batches were computed in parts, for want of memory")] if count else []


def _time(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _numbers(metrics: Mapping[str, float], history: list[dict[str, Any]]) -> Lines:
    """Losses, the accuracy that training had last, and what was measured on held-out rows."""
    shown = {name: value for name, value in metrics.items() if name == "train_loss" or name.startswith("eval_")}
    lines = [(name, f"{value:.4g}") for name, value in shown.items() if not any(word in name for word in TIMING)]
    logged: dict[str, Any] = next((logs for logs in reversed(history) if "loss" in logs), {})
    accuracy = [(name, f"{logged[name]:.4g} in the last steps logged") for name in ACCURACIES if name in logged]
    return [*lines[:1], *accuracy, *lines[1:]] if "train_loss" in shown else [*accuracy, *lines]


def _places(trainer: Any, out: Path) -> Lines:
    saved = {folder: part for folder, part in trainer.trained.saved(out).items() if folder != out}
    parts = [(part, str(folder)) for folder, part in saved.items() if folder.is_dir()]
    places = parts or [("adapter" if _has_adapter(out) else "model", str(out))]
    if (all_results := out / "all_results.json").is_file():
        places.append(("metrics", str(all_results)))
    checkpoints = len(steps_of(out))
    return [*places, ("checkpoints", f"{out}/checkpoint-* ({checkpoints})")] if checkpoints else places


def _responses(trainer: Any, out: Path) -> Lines:
    """Where a run that sampled responses has them, and what each iteration or rollout made of them."""
    if trainer.scorer is None:
        return []
    done = len(list(out.glob("iteration-*/policy")))
    iterations = [("iterations", f"{out}/iteration-* ({done})")] if done else []
    named = [("responses", "pool"), ("rollouts", "rollouts.jsonl"), *(("picture", name) for name in PICTURES)]
    return [(label, str(out / name)) for label, name in named if (out / name).exists()] + iterations


# ---- what now --------------------------------------------------------------------------------------------------------


def what_now(trainer: Any, out: Path) -> Lines:
    """How to load, use, measure and go on with what was trained: each with its command."""
    model = next(iter(trainer.trained.saved(out)))
    if not _is_saved(model):
        return [("save", "trainer.save_model()")]
    scores = trainer.objective.trains == "scorer"
    lines = _of_scorer(trainer, model) if scores else _of_policy(trainer, model)
    lines.append(("look for faults", f"prefopt doctor {quote(str(out))}"))
    lines += _going_on(trainer, out)
    return [*lines, ("about it", f"prefopt info {quote(str(model))}, and the model card {model / CARD}")]


def _of_policy(trainer: Any, model: Path) -> Lines:
    kind = "AutoPeftModelForCausalLM" if _has_adapter(model) else "AutoModelForCausalLM"
    folder, names = quote(str(model)), trainer.lineage.names
    base = quote(names["model"]) if _can_be_loaded(names.get("model")) else "BASE"
    merge = [("merge", f"prefopt merge {folder} --output_dir {folder}-merged")] if _has_adapter(model) else []
    return [
        ("load", f'{kind}.from_pretrained("{model}")'),
        ("chat", f"prefopt chat {folder}"),
        *merge,
        ("evaluate", f"prefopt evaluate {base} {folder} --data {_held_out(names)}"),
    ]


def _of_scorer(trainer: Any, model: Path) -> Lines:
    folder = quote(str(model))
    return [
        ("load", f'prefopt.scoring.scorer_from("{model}")'),
        ("evaluate", f"prefopt evaluate {folder} --data {_held_out(trainer.lineage.names)}"),
        ("select by it", f"prefopt best-of-n --model_name_or_path POLICY --dataset_name PROMPTS --scorer {folder}"),
        ("train by it", f"prefopt ppo --model_name_or_path POLICY --dataset_name PROMPTS --scorer {folder}"),
    ]


def _going_on(trainer: Any, out: Path) -> Lines:
    """How to train further: from the newest checkpoint, whose schedule a later end would change, where there is one."""
    if trainer.scorer is not None and (out / "pool").is_dir():
        return [("go on", "the same command with more --iterations and --resume_from_checkpoint true")]
    if not steps_of(out):
        return []
    name = "max_steps" if trainer.args.max_steps > 0 else "num_train_epochs"
    changed = f"--{name} {2 * getattr(trainer.args, name):g} --resume_with_changes {name}"
    return [("go on", f"the same command with --resume_from_checkpoint true {changed}")]


def _held_out(names: Mapping[str, str]) -> str:
    name = names.get("eval")
    return quote(name) if name and (Path(name).exists() or is_hub_id(name)) else "HELD_OUT_ROWS"


def _can_be_loaded(name: str | None) -> bool:
    return bool(name) and " made in Python" not in str(name)


def _has_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def _is_saved(folder: Path) -> bool:
    return _has_adapter(folder) or (folder / "config.json").is_file()

"""The reward model of a round, and how well it ranks."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from ...candidates.candidate import prompt_key
from ...candidates.evaluate import standard_error
from ...compare import records
from ...compare.measure import scored_pairs
from ...compare.run import adapter, arguments, trained
from ...data.loading import load
from ...data.records import DataError
from ...training.trainers import RewardConfig, RewardTrainer
from ...utils import jsonl
from ...utils.extensions import is_named, load_named
from ..context import SAFETY, StageContext, safety_test
from ..tasks import PARTS
from .files import HELD_OUT, LABELS, Result, saved


def reward(context: StageContext) -> Result:
    """The reward model, trained on the labels of all rounds so far."""
    if context.inputs["scorer"] is not None:
        return {"policy": os.path.expanduser(context.inputs["scorer"][0])}
    parts = _mixed(context)
    counts = {name: len(part) for name, part in parts.items()}
    if not any(counts.values()):
        what = f"for {context.inputs['part']}" if "part" in context.inputs else "to learn from"
        raise DataError(f"reward: there is no pair {what}: {counts}")
    table = concatenate_datasets([part for part in parts.values() if len(part)])
    if context.inputs.get("stage"):
        return dict(load_named(context.inputs["stage"], "reward:")(context, table) or {})
    settings = dict(context.inputs["settings"])
    args = RewardConfig(**arguments(context, settings))
    model = context.start if context.inputs["init"] == "base" else _reward_start(context)
    trainer, cost = trained(
        context, lambda: RewardTrainer(model, args, train_dataset=table, **adapter(context, "scorer"))
    )
    return {**saved(context, trainer, cost, merge=False), "rows": counts}


def safety(context: StageContext) -> Result:
    """Which prompts are safety prompts, by rows of them or by a function."""
    source = context.inputs["prompts"][0]
    if is_named(source):
        return {"prompts": source}
    keys = list(dict.fromkeys(prompt_key(prompt) for prompt in load(source, "any")[0]["prompt"]))
    jsonl.replace(context.folder / SAFETY, [{"prompt_key": key} for key in keys])
    return {"prompts": len(keys)}


def combine(context: StageContext) -> Result:
    """The scorer of two reward models: what it is made of are its needs."""
    return {}


def _reward_start(context: StageContext) -> str:
    if context.inputs["init"] == "previous":
        return context.policy_at("previous") if "previous" in context.task.needs else context.start
    return os.path.expanduser(context.inputs["init"][0])


def _mixed(context: StageContext) -> dict[str, Dataset]:
    """The pairs by where they are from, each as often as its weight says."""
    mix, number = context.inputs["mix"], context.round
    columns = ("prompt", "chosen", "rejected", "grade", "margin")
    groups: dict[str, Iterable[Any]] = {}
    if mix["open"]:
        groups["open"] = context.rows.pairs
    for role, task in context.task.needs.items():
        if role.startswith("labels "):
            groups[role] = jsonl.read(task.folder(context.out) / LABELS)
    made: dict[str, list[Any]] = {}
    for name, group in groups.items():
        weight = mix["open"] if name == "open" else mix["new" if name == f"labels {number}" else "old"]
        rows = [{c: row[c] for c in columns if row.get(c) is not None} for row in group]
        made[name] = []
        for share, part in _of_part(context, rows):
            made[name] += _weighted(part, weight * share, f"{context.stream} {name}")
    grades = all("grade" in row for part in made.values() for row in part)
    common = [c for c in columns if c != "grade" or grades]
    if not grades and context.inputs["settings"].get("margin") in ("small", "large"):
        without = {name: sum("grade" not in row for row in part) for name, part in made.items()}
        raise DataError(
            f"reward: margin={context.inputs['settings']['margin']} is by grade, and rows have none: {without}"
        )
    return {
        name: Dataset.from_list([{c: row[c] for c in common if c in row} for row in part])
        for name, part in made.items()
    }


def _of_part(context: StageContext, rows: list[Any]) -> Iterator[tuple[float, list[Any]]]:
    """The rows that a reward model learns from and how often each counts: of two models, its own and the other's."""
    if "part" not in context.inputs:
        yield 1.0, rows
        return
    is_safe = safety_test(context.task.needs["safety prompts"], context.out)
    for_safety = context.inputs["part"] == PARTS[1]
    for share, wanted in ((1.0, for_safety), (context.inputs["other part"], not for_safety)):
        yield share, [row for row in rows if bool(is_safe(row["prompt"])) is wanted]


def _weighted(rows: list[Any], weight: float, stream: str) -> list[Any]:
    """All rows as often as the whole part of the weight says, and a random share of them once more."""
    whole, share = int(weight), weight - int(weight)
    extra = random.Random(f"mix {stream}").sample(rows, round(share * len(rows)))
    return rows * whole + extra


def rank(context: StageContext) -> Result:
    """How many held-out pairs the reward model ranks right: of the plan's test rows, and of each round's labels."""
    scorer = context.scorer()
    found: Result = {}
    groups: dict[str, Any] = {"test": context.held_out.pairs}
    for role, task in context.task.needs.items():
        if role.startswith("labels "):
            rows = list(jsonl.read(task.folder(context.out) / HELD_OUT))
            groups[role] = Dataset.from_list(rows) if rows else None
    for name, pairs in groups.items():
        if pairs is not None and len(pairs):
            table = scored_pairs(scorer, pairs)
            records.write(context.folder / f"{name.replace(' ', '-')}.parquet", table)
            correct = table["correct"].to_numpy()
            found[name] = {"pairs": len(correct), "accuracy": float(correct.mean()), "error": _error(correct)}
    return {"accuracy": found}


def _error(values: np.ndarray) -> float | None:
    return standard_error(values) if len(values) > 1 else None

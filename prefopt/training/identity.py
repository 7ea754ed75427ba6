"""What a run is, in plain values under a format number: what must be the same for a folder to be gone on with.

Nothing here depends on how Python prints an object, on module paths or on the version of prefopt, so that a folder
outlives them. What version 0.1.0 wrote (format 1, which has no number) is read as what it meant.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from transformers import SchedulerType
from transformers.training_args import OptimizerNames

from ..objectives.base import Objective

FORMAT = 2
RENAMED = {"BestOf": "SFT"}
"""Objectives of format 1 that have another name now."""

PRINTED = ("learning_rate", "num_train_epochs", "max_steps", "warmup_steps", "max_length")
"""Arguments of iterations that format 1 held as text."""
ENUMS: Mapping[str, Any] = {"SchedulerType": SchedulerType, "OptimizerNames": OptimizerNames}
"""Kinds of arguments that format 1 held by their Python name."""

Run = Mapping[str, Any]


def plain(value: Any) -> Any:
    """A setting as JSON holds it; what JSON cannot hold is named by its type."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(part) for part in value), key=str)
    return str(value) if isinstance(value, Path) else type(value).__qualname__


def objective_description(objective: Objective) -> dict[str, Any]:
    """The objective's name and hyperparameters, but for those that may be others when a run goes on."""
    names: list[str] = [field.name for field in fields(objective)] if is_dataclass(objective) else []
    hyperparameters = {name: plain(getattr(objective, name)) for name in names if name not in objective.free}
    return {"name": type(objective).__name__, **hyperparameters}


def differences(then: Run, now: Run) -> list[str]:
    """What differs between two descriptions of a run, in words; what only one of them has is no difference."""
    before, after = (dict(_flat(_upgraded(run))) for run in (then, json.loads(json.dumps(now))))
    return [
        f"{name} was {before[name]!r}, is {value!r}"
        for name, value in after.items()
        if name in before and before[name] != value and name != "format"
    ]


def _flat(run: Run, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in run.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _upgraded(run: Run) -> Run:
    """A description in today's format. Format 1 held objectives and some arguments as Python prints them."""
    if "format" in run:
        return run
    return {name: _read(name, value) for name, value in run.items()}


def _read(name: str, value: Any) -> Any:
    """A value of format 1: `DPO(beta=0.1)` is a name and hyperparameters, `SchedulerType.LINEAR` is "linear"."""
    if not isinstance(value, str):
        return value
    try:
        tree = ast.parse(value, mode="eval").body
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and name == "objective":
            settings = {word.arg: plain(ast.literal_eval(word.value)) for word in tree.keywords if word.arg}
            return {"name": RENAMED.get(tree.func.id, tree.func.id), **settings}
        if isinstance(tree, ast.Attribute) and isinstance(tree.value, ast.Name) and tree.value.id in ENUMS:
            return ENUMS[tree.value.id][tree.attr].value
        return plain(ast.literal_eval(tree)) if name in PRINTED else value
    except (SyntaxError, ValueError, KeyError):
        return value

"""Chooses hyperparameters on validation prompts by the reward model, with equally many trials for each method."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from ...tasks import Task
from ...utils.names import hint
from ...utils.visible import shown
from ..plan import MethodSpec, Plan, PlanError, make_method_spec
from .tasks import Tasks

Settings = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One combination of hyperparameters for one method, and the task that scores it."""

    name: str
    settings: Settings
    spec: MethodSpec
    task: Task


def trials(plan: Plan, tasks: Tasks) -> list[Trial]:
    """The trials of the plan's grid.

    Raises:
        PlanError: a method that the plan has not, values that are no list, or fewer combinations than trials.
    """
    if plan.grid is None:
        return []
    if plan.reward is None:
        raise PlanError("grid: settings are chosen by a reward model's score: give the plan a `reward`")
    seed = plan.seeds[0] if plan.grid.seed is None else plan.grid.seed
    all_trials = []
    for name, values in plan.grid.methods.items():
        if name not in plan.methods:
            raise PlanError(f"grid: methods: {name!r} is none of the plan's{hint(name, plan.methods)}")
        if not make_method_spec(name, plan.methods[name] or {}, plan.training).trains:
            raise PlanError(f"grid: methods: {name} trains nothing: there are no settings to choose")
        for settings in _combinations(name, values, plan.grid.trials):
            spec = make_method_spec(name, {**(plan.methods[name] or {}), **settings}, plan.training)
            all_trials.append(Trial(name, settings, spec, tasks.validate(spec, seed)))
    return all_trials


def _combinations(name: str, values: Any, count: int) -> list[Settings]:
    """`count` combinations of the values; of more, a sample that depends on the method's name alone."""
    if not isinstance(values, Mapping) or not all(isinstance(part, list | tuple) and part for part in values.values()):
        raise PlanError(f"grid: methods: {name}: given {shown(values)}; write a list of values for each setting")
    combinations = [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]
    if len(combinations) < count:
        raise PlanError(
            f"grid: methods: {name} has {len(combinations)} combinations, and every method gets {count} trials: give "
            "it more values, or all of them fewer trials"
        )
    return random.Random(name).sample(combinations, count) if len(combinations) > count else combinations


def choose_best(plan: Plan, tried: list[Trial], out: Path) -> Plan:
    """The plan with each method's best hyperparameters; a method without a finished trial keeps its own."""
    best: dict[str, tuple[float, Settings]] = {}
    for trial in tried:
        result = trial.task.result(out)
        if result is not None and result["score"] > best.get(trial.name, (float("-inf"), {}))[0]:
            best[trial.name] = result["score"], trial.settings
    methods = {n: {**(settings or {}), **best.get(n, (0.0, {}))[1]} for n, settings in plan.methods.items()}
    return replace(plan, methods=methods)

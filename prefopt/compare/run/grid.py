"""Settings chosen on validation prompts by the reward model, equally many trials for each method. Trains nothing."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from ...utils.names import hint
from ..plan.method_spec import Way, way_of
from ..plan.plan import Plan
from ..plan.sections import PlanError
from .tasks import Task, Tasks

Settings = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One combination of settings for one method."""

    name: str
    settings: Settings
    way: Way
    task: Task


def trials(plan: Plan, tasks: Tasks) -> list[Trial]:
    """All that the plan's grid asks for.

    Raises:
        PlanError: a method that the plan has not, values that are no list, or fewer combinations than trials.
    """
    if plan.grid is None:
        return []
    if plan.reward is None:
        raise PlanError("grid: settings are chosen by a reward model's score: give the plan a `reward`")
    seed = plan.seeds[0] if plan.grid.seed is None else plan.grid.seed
    found = []
    for name, values in plan.grid.methods.items():
        if name not in plan.methods:
            raise PlanError(f"grid: methods: {name!r} is none of the plan's{hint(name, plan.methods)}")
        if not way_of(name, plan.methods[name] or {}, plan.training).trains:
            raise PlanError(f"grid: methods: {name} trains nothing: there are no settings to choose")
        for settings in _combinations(name, values, plan.grid.trials):
            way = way_of(name, {**(plan.methods[name] or {}), **settings}, plan.training)
            found.append(Trial(name, settings, way, tasks.validate(way, seed)))
    return found


def _combinations(name: str, values: Any, count: int) -> list[Settings]:
    """So many of them; which, when there are more, depends on the method's name alone."""
    if not isinstance(values, Mapping) or not all(isinstance(each, list | tuple) and each for each in values.values()):
        raise PlanError(f"grid: methods: {name}: given {values!r}; write a list of values for each setting")
    every = [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]
    if len(every) < count:
        raise PlanError(
            f"grid: methods: {name} has {len(every)} combinations, and every method gets {count} trials: give it more "
            "values, or all of them fewer trials"
        )
    return random.Random(name).sample(every, count) if len(every) > count else every


def choose(plan: Plan, tried: list[Trial], out: Path) -> Plan:
    """The plan with the best settings of each method; it keeps its own where none of its trials was done."""
    best: dict[str, tuple[float, Settings]] = {}
    for trial in tried:
        result = trial.task.result(out)
        if result is not None and result["score"] > best.get(trial.name, (float("-inf"), {}))[0]:
            best[trial.name] = result["score"], trial.settings
    methods = {n: {**(given or {}), **best.get(n, (0.0, {}))[1]} for n, given in plan.methods.items()}
    return replace(plan, methods=methods)

"""The results of a plan's tasks, gathered for the report. Computes no statistic."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ...candidates.candidate import prompt_key
from ...utils import jsonl
from .. import records
from ..measure.judges import judge_from
from ..measure.versus import COLUMNS
from ..plan.method_spec import BASELINE, BEST_OF_N, REWARD_MODEL, Way
from ..plan.plan import Plan
from ..plan.sources import HeldOut
from .grid import Trial
from .tasks import Task, Tasks
from .watch import FILE as CURVE
from .worker import versions

MISSED = 0.1
"""Of a budget: who misses it by more is said to."""


class Collected:
    """What the tasks of a plan have come to."""

    def __init__(self, plan: Plan, tasks: Tasks, out: Path, tried: list[Trial], notes: list[dict[str, Any]]):
        self.plan, self.tasks, self.out, self.tried, self.notes = plan, tasks, out, tried, notes
        self.ways = plan.ways

    def experiment(self, command: str) -> records.Experiment:
        """All of it.

        Raises:
            ValueError: no rows were prepared: nothing can be said.
        """
        held_out, cells = self._held_out(), list(self._cells())
        failures = list(self._failures())
        return records.Experiment(
            title=self.plan.title,
            baseline=BASELINE,
            names=list(self.ways),
            seeds=self.plan.seeds,
            prompts={prompt_key(prompt): prompt for prompt in held_out.prompts},
            cells=[*cells, *self._reward_models()],
            judges=dict(self._judges()),
            notes=[*held_out.notes, *self.notes, *self._reservations(cells)],
            failures=failures,
            provenance=self._provenance(command),
        )

    def _held_out(self) -> HeldOut:
        task = self.tasks.held_out(self.plan.seeds[0])
        if task.result(self.out) is None:
            failures = (each.failure(self.out) for each in (*task.before(), task))
            failure = next((each for each in failures if each), {"reason": "they were not prepared"})
            raise ValueError(f"the data cannot be used: {failure['reason']}")
        return HeldOut.read(task.folder(self.out))

    def all_tasks(self) -> Iterator[Task]:
        """What the report is made of, seed by seed: a run that ends early has whole seeds to show."""
        for seed in self.plan.seeds:
            if (task := self.tasks.measure_reward(seed)) is not None:
                yield task
            for way in sorted(self.ways.values(), key=lambda way: not way.scored):  # the longest first
                yield from self.tasks.train(way, seed).values()
            for way in self.ways.values():
                yield self.tasks.evaluate(way, seed)
                yield from self._judging(way, seed)

    def _judging(self, way: Way, seed: int) -> list[Task]:
        if way.name == BASELINE:
            return []
        baseline = self.ways[BASELINE]
        return [self.tasks.judge(way, baseline, seed, judge) for judge in self.plan.judged_by if not by_column(judge)]

    def _judges(self) -> Iterator[tuple[str, str]]:
        for judge in self.plan.judged_by:
            ready = judge_from(judge, folder=self.out)
            yield ready.name, ready.kind

    # ---- cells -------------------------------------------------------------------------------------------------------

    def _cells(self) -> Iterator[records.Cell]:
        for name, way in self.ways.items():
            for seed in self.plan.seeds:
                folder = self._done(self.tasks.evaluate(way, seed))
                if folder is not None:
                    yield self._cell(name, way, seed, folder)

    def _cell(self, name: str, way: Way, seed: int, folder: Path) -> records.Cell:
        tables = {kind: records.read(folder / f"{kind}.parquet") for kind in records.TABLES}
        trained = self.tasks.train(way, seed).get("train")
        curve = list(jsonl.read(trained.folder(self.out) / CURVE)) if trained else []
        return records.Cell(
            name=name,
            method=way.method,
            seed=seed,
            settings=way.settings,
            cost=self._cost(way, seed),
            **tables,
            judgements=self._judgements(way, seed, tables["responses"]),
            curve=curve,
            trials=self._tried.get(name, 1),
        )

    @property
    def _tried(self) -> dict[str, int]:
        """How many settings of each method were measured."""
        done = (trial.name for trial in self.tried if trial.task.result(self.out) is not None)
        return dict(Counter(done))

    def _done(self, task: Task | None) -> Path | None:
        return None if task is None or task.result(self.out) is None else task.folder(self.out)

    def _reward_models(self) -> Iterator[records.Cell]:
        for seed in self.plan.seeds:
            folder = self._done(self.tasks.measure_reward(seed))
            if folder is not None:
                yield records.Cell(REWARD_MODEL, REWARD_MODEL, seed, pairs=records.read(folder / "pairs.parquet"))

    def _judgements(self, way: Way, seed: int, ours: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
        """By every judge that has judged."""
        if way.name == BASELINE:
            return {}
        found = {}
        for task in self._judging(way, seed):
            result, table = task.result(self.out), records.read(task.folder(self.out) / "judgements.parquet")
            if result is not None and table is not None:
                found[result["name"]] = table
        place = self._done(self.tasks.evaluate(self.ways[BASELINE], seed))
        theirs = records.read(place / "responses.parquet") if place else None
        if ours is not None and theirs is not None:
            prompts = {key: () for key in ours["prompt_key"]}
            ready = [judge_from(each, folder=self.out) for each in self.plan.judged_by if by_column(each)]
            found |= {each.name: each.judge(prompts, ours, theirs) for each in ready}
        return found

    # ---- cost --------------------------------------------------------------------------------------------------------

    def _cost(self, way: Way, seed: int) -> dict[str, Any]:
        """The fields of `report.findings.Cost`."""
        task = self.tasks.train(way, seed).get("train")
        own = self._cost_of(task) or {"flops": {}, "tokens": {}, "seconds": 0.0, "cpu_seconds": 0.0, "steps": 0}
        if way.method == BEST_OF_N:
            own = self._answering(self.tasks.evaluate(way, seed))
        spent = [self._cost_of(trial.task.needs.get("train")) for trial in self.tried if trial.name == way.name]
        if len(spent) > 1:
            every = sum(sum(cost["flops"].values()) for cost in spent if cost)
            taken = sum(own["flops"].values()) if seed == self._grid_seed else 0.0
            own = {**own, "flops": {**own["flops"], "trials": every - taken}}
        return {**own, "shared": self._shared(way, seed, task)}

    @property
    def _grid_seed(self) -> int | None:
        grid = self.plan.grid
        return None if grid is None else self.plan.seeds[0] if grid.seed is None else grid.seed

    def _cost_of(self, task: Task | None) -> dict[str, Any] | None:
        result = None if task is None else task.result(self.out)
        return None if result is None else result.get("cost")

    def _answering(self, task: Task) -> dict[str, Any]:
        """What it takes to answer the test prompts once."""
        cost, k = self._cost_of(task) or {}, self.plan.evaluation.responses_per_prompt
        kept = {"generation", "scoring"}
        each = {
            name: {purpose: value / k for purpose, value in cost.get(name, {}).items() if purpose in kept}
            for name in ("flops", "tokens")
        }
        times = {name: cost.get(name, 0.0) / k for name in ("seconds", "cpu_seconds")}
        return {**each, **times, "steps": 0, "peak_memory": cost.get("peak_memory")}

    def _shared(self, way: Way, seed: int, task: Task | None) -> dict[str, float]:
        """FLOPs of the stages that it needs and others need too."""
        stages = {"sft": self.tasks.start(seed).get("start")}
        if way.scored:
            stages["reward model"] = self.tasks.reward(seed).get("reward")
        paid = (self._cost_of(task) or {}).get("flops", {})
        if task is not None and "reference" in task.needs and "reference" not in paid:
            stages["reference"] = task.needs["reference"]
        costs = {name: self._cost_of(stage) for name, stage in stages.items()}
        return {name: sum(cost["flops"].values()) for name, cost in costs.items() if cost}

    # ---- what went wrong, and where it was ---------------------------------------------------------------------------

    def _failures(self) -> Iterator[dict[str, Any]]:
        """Every task that failed, once."""
        seen = set()
        for task in (*self.all_tasks(), *(trial.task for trial in self.tried)):
            for each in (*task.before(), task):
                failure = None if each.key in seen else each.failure(self.out)
                seen.add(each.key)
                if failure is not None:
                    yield {"method": each.name or each.kind, "seed": each.seed, **failure}

    def _reservations(self, cells: list[records.Cell]) -> Iterator[dict[str, Any]]:
        """What the plan's own design leaves open."""
        if self.plan.one_stage and len(self.plan.seeds) > 1:
            yield {"key": "one_stage"}
        if mixed := [f"{name} {', '.join(sorted(found))}" for name, found in self._packages.items() if len(found) > 1]:
            yield {"key": "mixed_versions", "values": {"packages": mixed}}
        untried = [way.name for way in self.ways.values() if way.trains and way.name not in self._tried]
        if self.tried and untried:
            yield {"key": "unequal_trials", "values": {"methods": untried}, "serious": True}
        if (budget := self.plan.budget) is None:
            return
        for cell in cells:
            way = self.ways[cell.name]
            charged = cell.cost["shared"].get("reward model", 0.0) if budget.reward_model else 0.0
            spent = sum(cell.cost["flops"].values()) + charged
            if way.trains and not 1 - MISSED < spent / budget.flops < 1 + MISSED:
                yield {"key": "budget_missed", "values": {"method": cell.name, "flops": spent, "budget": budget.flops}}

    @cached_property
    def _packages(self) -> dict[str, set[str]]:
        """The versions that the results were made with, the report's own among them."""
        found = {name: {installed} for name, installed in versions().items()}
        every = {each.key: each for task in self.all_tasks() for each in (*task.before(), task)}
        for task in every.values():
            for name, installed in ((task.result(self.out) or {}).get("packages") or {}).items():
                found.setdefault(name, set()).add(installed)
        return found

    def _provenance(self, command: str) -> dict[str, Any]:
        return {
            "command": command,
            "plan": self.plan.plain(),
            "packages": {name: ", ".join(sorted(found)) for name, found in self._packages.items()},
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            "machine": machine(),
            "data": {name: hashed(value[0]) for name, value in self.tasks.data.items() if isinstance(value, list)},
            "cells": {
                f"{w.name}, {s}": self.tasks.evaluate(w, s).key for w in self.ways.values() for s in self.plan.seeds
            },
        }


def hashed(source: str) -> str:
    """A source of rows, with the SHA-256 of its contents where it is a file."""
    path = Path(source).expanduser()
    if not path.is_file():
        return source
    with path.open("rb") as file:
        return f"{source} (sha256 {hashlib.file_digest(file, 'sha256').hexdigest()})"


def by_column(judge: Any) -> bool:
    """Whether all that the judge reads is measured anyway."""
    return isinstance(judge, str) and judge in COLUMNS


def machine() -> Mapping[str, Any]:
    """Processor or GPU, as far as it says its name."""
    import torch

    if torch.cuda.is_available():
        return {"gpu": torch.cuda.get_device_name(), "gpus": torch.cuda.device_count()}
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"processor": names[0] if names else platform.processor(), "cores": len(names) or None}

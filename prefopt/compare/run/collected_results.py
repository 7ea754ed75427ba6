"""Collects the results of a plan's tasks for the report; the statistics are the report's."""

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
from ...data.row_encoder import COUNTS, REMARKS
from ...tasks import Task, done, in_order
from ...tasks.worker import versions
from ...utils import jsonl
from .. import records
from ..measure import COLUMNS, judge_from
from ..plan import BEST_OF_N, REWARD_MODEL, HeldOutData, MethodSpec, Plan
from .hyperparameter_grid import Trial
from .tasks import Tasks
from .validation_curve import FILE as CURVE_FILE

BUDGET_TOLERANCE = 0.1
"""The share of a budget by which a method may miss it without a warning."""


class CollectedResults:
    """What the tasks of a plan have resulted in so far."""

    def __init__(self, plan: Plan, tasks: Tasks, out: Path, tried: list[Trial], notes: list[dict[str, Any]]):
        self.plan, self.tasks, self.out, self.tried, self.notes = plan, tasks, out, tried, notes
        self.specs = plan.method_specs

    def experiment(self, command: str) -> records.Experiment:
        """All results, as the report's numbers are made of them.

        Args:
            command: the command line, for the report.

        Raises:
            DamagedFile: a file of a result is not what was written.
            ValueError: no rows were prepared, so there is nothing to report.
        """
        for task in in_order(self.all_tasks()):
            done.check(task.folder(self.out), below=done.SMALL)
        held_out, cells = self._held_out(), list(self._cells())
        failures = list(self._failures())
        return records.Experiment(
            title=self.plan.title,
            baseline=self.plan.baseline,
            names=list(self.specs),
            seeds=self.plan.seeds,
            prompts={prompt_key(prompt): prompt for prompt in held_out.prompts},
            cells=[*cells, *self._reward_models()],
            judges=dict(self._judges()),
            notes=[*held_out.notes, *self.notes, *self._warnings(cells)],
            failures=failures,
            provenance=self._provenance(command),
        )

    def _held_out(self) -> HeldOutData:
        task = self.tasks.held_out(self.plan.seeds[0])
        if task.result(self.out) is None:
            failures = (needed.failure(self.out) for needed in (*task.dependencies(), task))
            failure = next((failure for failure in failures if failure), {"reason": "they were not prepared"})
            raise ValueError(f"the data cannot be used: {failure['reason']}")
        return HeldOutData.read(task.folder(self.out))

    def all_tasks(self) -> Iterator[Task]:
        """The tasks whose results the report needs, seed by seed: a run that ends early has whole seeds to show."""
        for seed in self.plan.seeds:
            if (task := self.tasks.evaluate_reward_model(seed)) is not None:
                yield task
            for spec in sorted(self.specs.values(), key=lambda spec: not spec.needs_reward_model):  # longest first
                yield from self.tasks.train(spec, seed).values()
            for spec in self.specs.values():
                yield self.tasks.evaluate(spec, seed)
                yield from self._judge_tasks(spec, seed)

    def _judge_tasks(self, spec: MethodSpec, seed: int) -> list[Task]:
        if spec.name == self.plan.baseline:
            return []
        baseline = self.specs[self.plan.baseline]
        return [
            self.tasks.judge(spec, baseline, seed, judge)
            for judge in self.plan.active_judges
            if not compares_a_column(judge)
        ]

    def _judges(self) -> Iterator[tuple[str, str]]:
        for judge in self.plan.active_judges:
            loaded = judge_from(judge, folder=self.out)
            yield loaded.name, loaded.kind

    # ---- cells -------------------------------------------------------------------------------------------------------

    def _cells(self) -> Iterator[records.Cell]:
        for name, spec in self.specs.items():
            for seed in self.plan.seeds:
                folder = self._done(self.tasks.evaluate(spec, seed))
                if folder is not None:
                    yield self._cell(name, spec, seed, folder)

    def _cell(self, name: str, spec: MethodSpec, seed: int, folder: Path) -> records.Cell:
        tables = {kind: records.read(folder / f"{kind}.parquet") for kind in records.TABLES}
        trained = self.tasks.train(spec, seed).get("train")
        curve = list(jsonl.read(trained.folder(self.out) / CURVE_FILE)) if trained else []
        return records.Cell(
            name=name,
            method=spec.method,
            seed=seed,
            settings=spec.settings,
            cost=self._cost(spec, seed),
            **tables,
            judgements=self._judgements(spec, seed, tables["responses"]),
            curve=curve,
            trials=self._tried.get(name, 1),
        )

    @property
    def _tried(self) -> dict[str, int]:
        """How many trials of each method are done."""
        done = (trial.name for trial in self.tried if trial.task.result(self.out) is not None)
        return dict(Counter(done))

    def _done(self, task: Task | None) -> Path | None:
        return None if task is None or task.result(self.out) is None else task.folder(self.out)

    def _reward_models(self) -> Iterator[records.Cell]:
        for seed in self.plan.seeds:
            folder = self._done(self.tasks.evaluate_reward_model(seed))
            if folder is not None:
                yield records.Cell(REWARD_MODEL, REWARD_MODEL, seed, pairs=records.read(folder / "pairs.parquet"))

    def _judgements(self, spec: MethodSpec, seed: int, ours: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
        """The judgements of every judge that is done, by its name."""
        if spec.name == self.plan.baseline:
            return {}
        judgements = {}
        for task in self._judge_tasks(spec, seed):
            result, table = task.result(self.out), records.read(task.folder(self.out) / "judgements.parquet")
            if result is not None and table is not None:
                judgements[result["name"]] = table
        folder = self._done(self.tasks.evaluate(self.specs[self.plan.baseline], seed))
        theirs = records.read(folder / "responses.parquet") if folder else None
        if ours is not None and theirs is not None:
            prompts = {key: () for key in ours["prompt_key"]}
            for named in filter(compares_a_column, self.plan.active_judges):
                judge = judge_from(named, folder=self.out)
                judgements[judge.name] = judge.judge(prompts, ours, theirs)
        return judgements

    # ---- cost --------------------------------------------------------------------------------------------------------

    def _cost(self, spec: MethodSpec, seed: int) -> dict[str, Any]:
        """The fields of `report.findings.Cost`."""
        task = self.tasks.train(spec, seed).get("train")
        own = self._cost_of(task) or {"flops": {}, "tokens": {}, "seconds": 0.0, "cpu_seconds": 0.0, "steps": 0}
        if spec.method == BEST_OF_N:
            own = self._answering(self.tasks.evaluate(spec, seed))
        spent = [self._cost_of(trial.task.needs.get("train")) for trial in self.tried if trial.name == spec.name]
        if len(spent) > 1:
            every = sum(sum(cost["flops"].values()) for cost in spent if cost)
            taken = sum(own["flops"].values()) if seed == self._grid_seed else 0.0
            own = {**own, "flops": {**own["flops"], "trials": every - taken}}
        return {**own, "shared": self._shared(spec, seed, task)}

    @property
    def _grid_seed(self) -> int | None:
        grid = self.plan.grid
        return None if grid is None else self.plan.seeds[0] if grid.seed is None else grid.seed

    def _cost_of(self, task: Task | None) -> dict[str, Any] | None:
        result = None if task is None else task.result(self.out)
        return None if result is None else result.get("cost")

    def _answering(self, task: Task) -> dict[str, Any]:
        """The cost of one response to each test prompt."""
        cost, k = self._cost_of(task) or {}, self.plan.evaluation.responses_per_prompt
        kept = {"generation", "scoring"}
        counts = {
            name: {purpose: value / k for purpose, value in cost.get(name, {}).items() if purpose in kept}
            for name in ("flops", "tokens")
        }
        times = {name: cost.get(name, 0.0) / k for name in ("seconds", "cpu_seconds")}
        return {**counts, **times, "steps": 0, "peak_memory": cost.get("peak_memory")}

    def _shared(self, spec: MethodSpec, seed: int, task: Task | None) -> dict[str, float]:
        """FLOPs of the stages that the method needs and others need too."""
        stages = {"sft": self.tasks.start(seed).get("start")}
        if spec.needs_reward_model:
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
            for needed in (*task.dependencies(), task):
                failure = None if needed.key in seen else needed.failure(self.out)
                seen.add(needed.key)
                if failure is not None:
                    yield {"method": needed.name or needed.kind, "seed": needed.seed, **failure}

    def _warnings(self, cells: list[records.Cell]) -> Iterator[dict[str, Any]]:
        """Warnings about what the design of the plan leaves open."""
        if self.plan.one_stage and len(self.plan.seeds) > 1:
            yield {"key": "one_stage"}
        mixed = [f"{name} {', '.join(sorted(each))}" for name, each in self._packages.items() if len(each) > 1]
        if mixed:
            yield {"key": "mixed_versions", "values": {"packages": mixed}}
        untried = [spec.name for spec in self.specs.values() if spec.trains and spec.name not in self._tried]
        if self.tried and untried:
            yield {"key": "unequal_trials", "values": {"methods": untried}, "serious": True}
        yield from self._encoding()
        if (budget := self.plan.budget) is None:
            return
        for cell in cells:
            spec = self.specs[cell.name]
            charged = cell.cost["shared"].get("reward model", 0.0) if budget.reward_model else 0.0
            spent = sum(cell.cost["flops"].values()) + charged
            if spec.trains and not 1 - BUDGET_TOLERANCE < spent / budget.flops < 1 + BUDGET_TOLERANCE:
                yield {"key": "budget_missed", "values": {"method": cell.name, "flops": spent, "budget": budget.flops}}

    def _encoding(self) -> Iterator[dict[str, Any]]:
        """What encoding did to the rows that the methods were trained on, for each of these once with its most rows."""
        most: dict[tuple[str, str], int] = {}
        for task in in_order(self.all_tasks()):
            for name, count in ((task.result(self.out) or {}).get("encoding") or {}).items():
                if COUNTS[name] not in REMARKS:
                    told = task.name or task.kind, name
                    most[told] = max(count, most.get(told, 0))
        for (place, name), count in most.items():
            yield {"key": f"encoding.{name}", "values": {"rows": count, "of": place}}

    @cached_property
    def _packages(self) -> dict[str, set[str]]:
        """The versions that the results were made with, the report's own among them."""
        packages = {name: {installed} for name, installed in versions().items()}
        for task in in_order(self.all_tasks()):
            for name, installed in ((task.result(self.out) or {}).get("packages") or {}).items():
                packages.setdefault(name, set()).add(installed)
        return packages

    def _provenance(self, command: str) -> dict[str, Any]:
        return {
            "command": command,
            "plan": self.plan.plain(),
            "packages": {name: ", ".join(sorted(each)) for name, each in self._packages.items()},
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            "machine": machine(),
            "data": {name: hashed(value[0]) for name, value in self.tasks.data.items() if isinstance(value, list)},
            "cells": {
                f"{spec.name}, {seed}": self.tasks.evaluate(spec, seed).key
                for spec in self.specs.values()
                for seed in self.plan.seeds
            },
        }


def hashed(source: str) -> str:
    """A source of rows, with the SHA-256 of its contents where it is a file."""
    path = Path(source).expanduser()
    if not path.is_file():
        return source
    with path.open("rb") as file:
        return f"{source} (sha256 {hashlib.file_digest(file, 'sha256').hexdigest()})"


def compares_a_column(judge: Any) -> bool:
    """Whether the judge compares a column of the responses' table, which takes no task of its own."""
    return isinstance(judge, str) and judge in COLUMNS


def machine() -> Mapping[str, Any]:
    """The processor or GPU, as far as the machine tells."""
    import torch

    if torch.cuda.is_available():
        return {"gpu": torch.cuda.get_device_name(), "gpus": torch.cuda.device_count()}
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"processor": names[0] if names else platform.processor(), "cores": len(names) or None}

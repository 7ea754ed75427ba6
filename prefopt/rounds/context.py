"""Gives a stage what it reads: the rows, models, pools and results of the stages that it needs."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from ..candidates.candidate import Candidate, Scored, prompt_key
from ..candidates.evaluate import standard_error
from ..candidates.pool import Pool
from ..compare.measure import ResponseEvaluator, divergences
from ..compare.plan import TESTBED, DatasetSource
from ..compare.run import MODEL, TaskContext, source_from
from ..data.records import Messages
from ..scoring.combine import CombinedScorer, SafetyFirst
from ..scoring.http import is_service, service_from
from ..scoring.load import scorer_from
from ..scoring.reward_model import RewardModelScorer
from ..tasks import Task
from ..utils import jsonl
from ..utils.extensions import is_named, load_named
from ..utils.files import require_folder
from .tasks import PARTS

SAFETY = "safety_prompts.jsonl"
Pair = tuple[Candidate, Candidate]


@dataclass(frozen=True)
class StageContext(TaskContext):
    """A stage of a round, and the folder of the run, in which all results lie."""

    @property
    def round(self) -> int:
        return int(getattr(self.task, "round", 0))

    @property
    def plan_seed(self) -> int:
        return self.task.seed or 0

    @property
    def stream(self) -> int:
        """The seed of this stage, which no other stage has."""
        return int(self.inputs["stream"]) if "stream" in self.inputs else self.plan_seed

    @property
    def seed(self) -> int:
        return self.stream

    @property
    def is_testbed(self) -> bool:
        return self._data_task.inputs["data"]["train"] in (TESTBED, [TESTBED])

    @property
    def _data_task(self) -> Task:
        task = self.task
        while "data" not in task.inputs:
            task = task.needs["test" if "test" in task.needs else "rows"]
        return task

    @property
    def source(self) -> DatasetSource:
        return source_from(self._data_task.inputs)

    # ---- models ----------------------------------------------------------------------------------------------------

    def policy_at(self, role: str) -> str:
        """The folder or hub id of the policy, or the model, that a needed stage ended with."""
        return place_of(self.task.needs[role], self.out)

    @property
    def start(self) -> str:
        """v0's folder or hub id."""
        if "start" in self.task.needs:
            return self.policy_at("start")
        if "policy" in self.task.needs:
            return self.policy_at("policy")
        return os.path.expanduser(self.inputs["policy"][0])

    def scorer(self) -> Any:
        """The round's reward model, or what the plan names in its place; or two of them, as Llama 2 combines them."""
        task = self.task.needs["reward"]
        if task.kind == "combine":
            known = safety_test(task.needs["safety prompts"], self.out)
            # The heads' own scores, of which the sigmoid is a probability.
            parts = {
                name: RewardModelScorer(place_of(task.needs[name], self.out), name=name, normalized=False)
                for name in PARTS
            }
            return CombinedScorer(parts, SafetyFirst(known, task.inputs["threshold"]), name="score")
        place = self.policy_at("reward")
        if is_service(place):
            return service_from(place, name="score")
        return (
            scorer_from(load_named(place, "reward: scorer:"))
            if is_named(place)
            else RewardModelScorer(place, name="score")
        )

    def divergence_from_previous(self, evaluator: ResponseEvaluator, policy: Any, found: pd.DataFrame) -> Any:
        """The mean of KL(version || the one before), k1, and its standard error over prompts; None of v0."""
        if self.task.needs["previous"] is self.task.needs["policy"] or evaluator.temperature != 1:
            return None
        k = self.inputs["evaluation"]["responses_per_prompt"]
        samples = evaluator.sample(policy, self.held_out.prompts, k, self.plan_seed)
        previous = self.policy(self.policy_at("previous"))
        kl = np.asarray(divergences(policy, previous, samples)["kl"]).reshape(-1, k).mean(1)
        return {"mean": float(kl.mean()), "error": standard_error(kl) if len(kl) > 1 else None}

    # ---- candidates ------------------------------------------------------------------------------------------------

    def joined_pool(self) -> Pool:
        """The candidates of all rounds in one pool, in this stage's folder; their files are those of their rounds."""
        folder = self.folder / "pool"
        require_folder(folder)
        for role, task in self.task.needs.items():
            if role.startswith("pool "):
                for file in sorted((task.folder(self.out) / "pool").glob("candidates-*.jsonl")):
                    linked = folder / file.name
                    if not linked.exists():
                        linked.symlink_to(os.path.relpath(file, folder))
        return Pool(folder)

    def scored(self) -> Iterator[Scored]:
        """The candidates that the needed stage scored, with their scores."""
        task = self.task.needs["score"]
        result = task.result(self.out)
        assert result is not None
        return Pool(task.folder(self.out) / "pool").scored(result["scorer"])

    def pairs_in(self, folder: Path, *, include_truncated: bool) -> list[Pair]:
        """The two candidates of each prompt, in the order of the prompts; equal texts make no pair."""
        by_prompt: dict[str, list[Candidate]] = defaultdict(list)
        for candidate in Pool(folder).candidates():
            by_prompt[candidate.prompt_key].append(candidate)
        both = [(group[0], group[1]) for group in by_prompt.values() if len(group) == 2]
        kept = [(a, b) for a, b in both if include_truncated or (a.finished and b.finished)]
        return [(a, b) for a, b in kept if a.response.strip() != b.response.strip()]


def safety_test(task: Task, out: Path) -> Callable[[Messages], bool]:
    """Whether a prompt is a safety prompt, as a stage that is done knows it."""
    source = task.inputs["prompts"][0]
    if is_named(source):
        return cast(Callable[[Messages], bool], load_named(source, "reward: safety: prompts:"))
    known = {row["prompt_key"]: True for row in jsonl.read(task.folder(out) / SAFETY)}
    return lambda prompt: prompt_key(prompt) in known


def place_of(task: Task, out: Path) -> str:
    """The folder or hub id of the model that a task ended with."""
    result = task.result(out) or {}
    if "policy" in result and task.kind in ("start", "reward"):
        return str(result["policy"])
    folder = task.folder(out) / MODEL
    return str(folder / "policy" if (folder / "policy").is_dir() else folder)

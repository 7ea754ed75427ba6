"""Divides a plan into tasks, and says what each depends on: see `tasks.Task`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from ...scoring.http import is_service, service_from
from ...tasks import Task
from ...tasks.launched import files_of
from ...tasks.task import LAUNCH
from ...training.config import PreferenceConfig
from ...training.declarations import named_trainers
from ...training.trainers import DPOConfig, DPOTrainer, RewardConfig, SFTConfig
from ...utils.extensions import is_named
from ...utils.visible import shown
from ..measure import judge_from
from ..plan import (
    BEST_OF_N,
    REWARD_MODEL,
    TESTBED,
    MethodSpec,
    Plan,
    PlanError,
    check_settings,
    engine_in,
    make_dataset_source,
    objective_of,
)

FILES = (".jsonl", ".json", ".gz", ".csv", ".parquet", ".yaml", ".jinja")
"""The suffixes by which the path of a missing file is told from a hub id."""
ENCODING = (
    *("max_length", "max_prompt_length", "truncation_mode"),
    *("chat_template_path", "chat_template_kwargs", "eos_token", "pad_token"),
)
READING = 3
"""The number of what is made of a file's rows: raised when the same rows begin to be read as others, see `FORMATS`.

2: turns, labels, verdicts and spaces that version 0.1.0 misread. The synthetic task's rows are not read.
3: labels that are true or false beside one answer, implicit prompts in scripts without spaces, thoughts before answers.
"""
LATER = {"columns": None, "text_prompts": "verbatim"}
"""Settings of the data that came later -> their defaults, which are left out of what a task is known by."""
ENGINE = "engine"
"""What a task's inputs call the settings of who samples."""
FORMATS = {
    "rows": 1,
    "held_out": 1,
    "encode": 1,
    "sft": 1,
    "reward": 1,
    "rank": 1,
    "reference": 1,
    "reference_pairs": 1,
    "train": 1,
    "evaluate": 1,
    "validate": 1,
    "judge": 1,
}
"""Kind of task -> the number of what its code makes of the same inputs.

Raise a kind's number whenever the code begins to make another result of the same inputs (other rows, other numbers,
other files): results of that kind, and of all that needs them, are then made anew. Leave it for any other change.
"""


class ComparisonTask(Task):
    """One step of a comparison, such as the training of a method with a seed."""

    formats = FORMATS
    functions = f"{__package__}.task_functions"
    trainings = frozenset({"sft", "reward", "train"})


class Tasks:
    """Makes the tasks of a plan; the same call makes an equal task.

    Raises:
        PlanError: a stage has a setting that there is not, or a file is not there.
    """

    def __init__(self, plan: Plan):
        self.plan, self.source = plan, make_dataset_source(plan.data, plan.evaluation)
        self.policy = contents_of(plan.policy)
        data = {name: value for name, value in asdict(plan.data).items() if name != "choices"}
        self.data = {name: _contents(value) for name, value in data.items() if value != LATER.get(name, ...)}
        if plan.data.train != TESTBED:
            self.data["reading"] = READING
        self.choices = [contents_of(path) for path in plan.data.choices]
        for name, kind in (("sft", SFTConfig), ("reward", RewardConfig)):
            _check_stage(name, getattr(plan, name), kind)
        if is_service(plan.reward):
            _check_service(plan.reward)
        if plan.data.train is None and (
            self.reward(plan.seeds[0]) or any(s.trains for s in plan.method_specs.values())
        ):
            raise PlanError("data: `train` is missing: the pairs that methods and the reward model learn from")

    def stage_seed(self, seed: int) -> int:
        return self.plan.seeds[0] if self.plan.one_stage else seed

    def rows(self, seed: int) -> Task:
        """Loads the rows that the seed learns from."""
        data = {name: value for name, value in self.data.items() if name != "test"}
        own = self.stage_seed(seed) if self.source.rows_per_seed else None
        needs_validation = self.plan.evaluation.curve_points or self.plan.grid
        sizes = self._sizes("curve_prompts") if needs_validation else {"evaluation": {"curve_prompts": 0}}
        return ComparisonTask("rows", "", own, {"data": data, **sizes})

    def held_out(self, seed: int) -> Task:
        """Loads the rows that the seed is evaluated on, without those that it learns from."""
        needs = {"rows": self.rows(seed)}
        return ComparisonTask(
            "held_out", "", needs["rows"].seed, {"data": self.data, **self._sizes("prompts", "pairs")}, needs
        )

    def _sizes(self, *names: str) -> dict[str, Any]:
        return {"evaluation": {name: getattr(self.plan.evaluation, name) for name in names}}

    def start(self, seed: int) -> dict[str, Task]:
        """Trains the policy that all methods start from, where the plan trains one."""
        if self.plan.sft is None:
            return {}
        inputs = {**self._models, "settings": dict(self._shared(SFTConfig) | dict(self.plan.sft))}
        inputs |= launched_by(self.plan.launch, "sft")
        return {"start": ComparisonTask("sft", "", self.stage_seed(seed), inputs, {"rows": self.rows(seed)})}

    def reward(self, seed: int) -> dict[str, Task]:
        """Trains the reward model, where the plan trains one."""
        if not isinstance(self.plan.reward, Mapping) or is_service(self.plan.reward):
            return {}
        inputs = {**self._models, "settings": dict(self._shared(RewardConfig) | dict(self.plan.reward))}
        inputs |= launched_by(self.plan.launch, "reward")
        needs = {"encoded": self.encode(seed, inputs["settings"]), **self.start(seed)}
        return {"reward": ComparisonTask("reward", "", self.stage_seed(seed), inputs, needs)}

    def encode(self, seed: int, settings: Mapping[str, Any]) -> Task:
        """Turns the pairs into token ids, once for all that train on them with the same settings."""
        inputs = {**self._models, "settings": self._encoding(settings)}
        needs = {"rows": self.rows(seed), **self.start(seed)}
        return ComparisonTask("encode", "", _one_for_all(needs), inputs, needs)

    @staticmethod
    def _encoding(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {name: settings[name] for name in ENCODING if name in settings}

    def reference(self, seed: int) -> Task:
        """Computes the reference's log-probs of the pairs, once for all methods that share them."""
        settings = {name: value for name, value in self._shared(DPOConfig).items() if name in REFERENCE}
        needs = {"encoded": self.encode(seed, self.plan.training), **self.start(seed)}
        return ComparisonTask("reference", "", _one_for_all(needs), {**self._models, "settings": settings}, needs)

    @cached_property
    def _share_reference(self) -> set[str]:
        """The methods that read the reference's log-probs of one task, if there are several."""
        names = {spec.name for spec in self.plan.method_specs.values() if shares_reference(spec)}
        return names if len(names) > 1 else set()

    def train(self, spec: MethodSpec, seed: int) -> dict[str, Task]:
        """Trains a method; empty for a method that trains nothing."""
        if not spec.trains:
            return {}
        if spec.needs_reward_model and self.plan.reward is None:
            raise PlanError(f"methods: {spec.name}: it needs a reward model: give the plan a `reward`")
        needs = {"rows": self.rows(seed), **self.start(seed)}
        if not spec.generates:
            needs["encoded"] = self.encode(seed, spec.arguments)
        if spec.name in self._share_reference:
            needs["reference"] = self.reference(seed)
        if spec.needs_reward_model or self.plan.evaluation.curve_points:  # it also scores the learning curve
            needs |= self.reward(seed)
        return {"train": ComparisonTask("train", spec.name, seed, self._training(spec), needs)}

    def _training(self, spec: MethodSpec) -> dict[str, Any]:
        budget = None if self.plan.budget is None else asdict(self.plan.budget)
        curve = {name: getattr(self.plan.evaluation, name) for name in CURVE}
        how = {"method": spec.method, "settings": dict(spec.settings), "training": dict(self.plan.training)}
        how["stands for"] = stands_for(spec)
        how |= launched_by(self.plan.launch, spec.name)
        code = spec.source_fingerprint
        return {**self._models, **self._scorer, **how, "source": code, "curve": curve, "budget": budget}

    def reference_pairs(self, seed: int) -> Task:
        """Computes the reference's log-probs of the held-out pairs, once for all methods."""
        inputs = {**self._models, "settings": self._encoding(self.plan.training)}
        needs = {"test": self.held_out(seed), **self.start(seed)}
        return ComparisonTask("reference_pairs", "", _one_for_all(needs), inputs, needs)

    def evaluate(self, spec: MethodSpec, seed: int) -> Task:
        """Evaluates a method on the held-out rows."""
        inputs = {**self._models, **self._scorer, **self._sizes(*SAMPLING), "choices": self.choices, "n": spec.n}
        inputs |= {"method": None if spec.trains else spec.method, "settings": self._encoding(self.plan.training)}
        inputs |= self._engine
        if spec.policy is not None:
            inputs["checkpoint"] = contents_of(spec.policy)
        needs = {"test": self.held_out(seed), **self.start(seed), **self.reward(seed), **self.train(spec, seed)}
        if spec.method != BEST_OF_N:  # which is no policy that could rank pairs
            needs["reference"] = self.reference_pairs(seed)
        return ComparisonTask("evaluate", spec.name, seed, inputs, needs)

    def evaluate_reward_model(self, seed: int) -> Task | None:
        """Evaluates the seed's reward model on the held-out pairs."""
        if self.plan.reward is None:
            return None
        needs: dict[str, Task] = {"test": self.held_out(seed), **self.reward(seed)}
        own = self.stage_seed(seed) if "reward" in needs else None
        return ComparisonTask("rank", REWARD_MODEL, own, dict(self._scorer), needs)

    def judge(self, spec: MethodSpec, baseline: MethodSpec, seed: int, judge: Any) -> Task:
        """Lets a judge that reads texts compare a method with the baseline."""
        needs = {
            "test": self.held_out(seed),
            "ours": self.evaluate(spec, seed),
            "theirs": self.evaluate(baseline, seed),
        }
        return ComparisonTask("judge", spec.name, seed, {"judge": judge, "source": _judge_contents(judge)}, needs)

    def validate(self, spec: MethodSpec, seed: int) -> Task:
        """Scores a trial's responses to validation prompts."""
        inputs = {**self._models, **self._scorer, **self._sizes(*SAMPLING)}
        inputs |= {"settings": self._encoding(self.plan.training), **self._engine}
        needs = {"rows": self.rows(seed), **self.start(seed), **self.reward(seed), **self.train(spec, seed)}
        return ComparisonTask("validate", spec.name, seed, inputs, needs)

    @property
    def _models(self) -> dict[str, Any]:
        return {"policy": self.policy, "model": dict(self.plan.model)}

    @property
    def _engine(self) -> dict[str, Any]:
        return engine_inputs(self.plan.training)

    @property
    def _scorer(self) -> dict[str, Any]:
        """The reward model, where the plan names a trained one or a service."""
        reward = self.plan.reward
        if isinstance(reward, Mapping):
            return {"scorer": [dict(reward)] if is_service(reward) else None}
        return {"scorer": None if reward is None else contents_of(reward)}

    def _shared(self, kind: type) -> dict[str, Any]:
        """The plan's settings for all trainings, as far as this kind of config has them."""
        known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
        return {name: value for name, value in self.plan.training.items() if name in known}


def engine_inputs(training: Mapping[str, Any]) -> dict[str, Any]:
    """What a task's inputs say of who samples; nothing where that is prefopt itself."""
    given = engine_in(training, ())
    return {ENGINE: given} if given else {}


def launched_by(given: Any, name: str) -> dict[str, Any]:
    """What a task's inputs say of the launcher that does what is called so; nothing where there is none."""
    command = given if isinstance(given, str) else (given or {}).get(name)
    return {} if command is None else {LAUNCH: [command, *map(contents_of, files_of(command))]}


def stands_for(spec: MethodSpec) -> dict[str, str]:
    """The arguments of the method's training, as texts."""
    if spec.recorded is not None:
        return dict(spec.recorded["stands for"])
    return {name: _text(value, spec.name) for name, value in spec.arguments.items()}


def shares_reference(spec: MethodSpec) -> bool:
    """Whether the method needs the frozen starting policy's log-probs of the plan's pairs, and of no other rows."""
    if spec.recorded is not None:
        return bool(spec.recorded["shares_reference"])
    if not spec.trains or spec.generates or spec.trainer is not DPOTrainer:
        return False
    needs = objective_of(spec).needs
    own = set(ENCODING) & set(spec.settings) or spec.arguments.get("sync_ref_model")
    return "reference" in needs and "mismatched" not in needs and not own


def _one_for_all(needs: Mapping[str, Task]) -> int | None:
    """The seed of what depends on these tasks, if it depends on a seed at all."""
    return next((task.seed for task in needs.values() if task.seed is not None), None)


REFERENCE = (*ENCODING, "bf16", "fp16", "layout", "per_device_eval_batch_size", "precompute_ref_batch_size")
"""The settings on which log-probs of a reference depend, and how they are computed."""
CURVE = ("curve_points", "max_new_tokens", "temperature", "batch_size")
SAMPLING = ("responses_per_prompt", "temperature", "max_new_tokens", "batch_size", "shots")


def contents_of(source: str) -> list[Any]:
    """A path or hub id, with the names, sizes and dates of its files, which change when its contents do.

    Raises:
        PlanError: the text looks like the path of a file, and there is none.
    """
    path = Path(source).expanduser()
    if source != TESTBED and not path.exists() and (path.suffix in FILES or source.startswith((".", "/", "~"))):
        raise PlanError(f"{source}: there is no such file or folder, seen from {Path.cwd()}")
    if source == TESTBED or not path.exists():
        return [source]
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [source, *([str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns] for file in files)]


def _contents(value: Any) -> Any:
    return contents_of(value) if isinstance(value, str) and value != "auto" else value


def _judge_contents(judge: Any) -> Any:
    """What changes when a judge does that the plan names and does not describe."""
    if isinstance(judge, Mapping):
        return _judge_contents(judge["judge"]) if "judge" in judge else None
    return judge_from(judge, folder=".").fingerprint if is_named(judge) else contents_of(judge)


def _text(value: Any, method: str) -> str:
    """A plain value as format 1 has it; any other has no text that says all of it, and may have another in each run.

    Raises:
        PlanError: the value is not plain.
    """
    try:
        json.dumps(value)
    except TypeError as error:
        what = f"{shown(value)} is no plain value, so nothing tells when it changes"
        raise PlanError(f"methods: {method}: {what}") from error
    return str(value)


def _check_service(reward: Any) -> None:
    try:
        service_from(reward)
    except ValueError as error:
        raise PlanError(f"reward: {error}") from error


def _check_stage(name: str, settings: Any, kind: type) -> None:
    if isinstance(settings, Mapping) and not is_service(settings):
        check_settings(name, settings, {field.name for field in fields(kind)})  # type: ignore[arg-type]


def check_training(plan: Plan) -> None:
    """Refuse a setting for all methods that no method could have.

    Raises:
        PlanError: there is one.
    """
    kinds = [
        PreferenceConfig,
        *(trainer.config for trainer in named_trainers()),
        *(spec.config for spec in plan.method_specs.values() if spec.trains),
    ]
    check_settings("training", plan.training, {field.name for kind in kinds for field in fields(kind)})

"""A plan as tasks: what each depends on, and where its result lies. Runs nothing.

A task's folder is named by a hash of all that its result depends on, the hashes of the tasks before it among them: a
result that is there is the right one, whatever else the plan has changed, and a change makes anew only what it touches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from ... import __version__
from ...training.config import PreferenceConfig
from ...training.trainers import DPOConfig, DPOTrainer, RewardConfig, SFTConfig
from ...utils import jsonl
from ...utils.fingerprint import fingerprint_of_values
from ..measure.judges import FUNCTION, judge_from
from ..plan.method_spec import BEST_OF_N, NAMED, REWARD_MODEL, Way, check_settings, objective_of
from ..plan.plan import TESTBED, Plan
from ..plan.sections import PlanError
from ..plan.sources import world_of

DONE, FAILED = "done.json", "failed.json"
FILES = (".jsonl", ".json", ".gz", ".csv", ".parquet", ".yaml", ".jinja")
"""By which a path is told from a hub id where nothing is there."""
AFTER = {"reference"}
"""Roles of tasks that have to be done before, and change nothing of the result."""
NAMELESS = re.compile(r"[^\w.-]")
ENCODING = ("max_length", "max_prompt_length", "truncation_mode", "chat_template_path", "eos_token", "pad_token")


@dataclass(frozen=True)
class Task:
    """A piece of work.

    Args:
        kind: its function in `work.py`.
        name: of the method it is about; "" of none.
        seed: None where it serves all.
        given: all else that its result depends on, in plain values.
        needs: role -> task whose result it reads.
    """

    kind: str
    name: str
    seed: int | None
    given: Mapping[str, Any]
    needs: Mapping[str, Task] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Its folder, under that of the comparison."""
        parts = [NAMELESS.sub("_", self.name), "" if self.seed is None else str(self.seed), self._digest[:10]]
        return f"{self.kind}/{'-'.join(part for part in parts if part)}"

    @cached_property
    def _digest(self) -> str:
        needs = {role: task._digest for role, task in self.needs.items() if role not in AFTER}
        return fingerprint_of_values([self.kind, self.seed, self.given, needs, __version__])

    @property
    def label(self) -> str:
        parts = [self.kind, self.name, "" if self.seed is None else f"seed {self.seed}"]
        return ", ".join(part for part in parts if part)

    def folder(self, out: Path) -> Path:
        return out / self.key

    def result(self, out: Path) -> dict[str, Any] | None:
        """What it came to, None if it is not done."""
        return next(jsonl.read(self.folder(out) / DONE), None)

    def failure(self, out: Path) -> dict[str, Any] | None:
        return next(jsonl.read(self.folder(out) / FAILED), None)

    def before(self) -> Iterator[Task]:
        """All that it needs, and what these need."""
        for task in self.needs.values():
            yield from task.before()
            yield task


class Tasks:
    """The tasks of a plan, made as they are asked for; asked again, they are equal.

    Raises:
        PlanError: a stage has a setting that there is not, or a file is not there.
    """

    def __init__(self, plan: Plan):
        self.plan, self.world = plan, world_of(plan.data, plan.evaluation)
        self.policy = identity(plan.policy)
        self.data = {name: _place(value) for name, value in asdict(plan.data).items() if name != "choices"}
        self.choices = [identity(path) for path in plan.data.choices]
        for name, kind in (("sft", SFTConfig), ("reward", RewardConfig)):
            _check_stage(name, getattr(plan, name), kind)

    def stage_seed(self, seed: int) -> int:
        return self.plan.seeds[0] if self.plan.one_stage else seed

    def rows(self, seed: int) -> Task:
        """What the seed learns from."""
        data = {name: value for name, value in self.data.items() if name != "test"}
        own = self.stage_seed(seed) if self.world.own_rows else None
        watched = self.plan.evaluation.curve_points or self.plan.grid
        sizes = self._sizes("curve_prompts") if watched else {"evaluation": {"curve_prompts": 0}}
        return Task("rows", "", own, {"data": data, **sizes})

    def held_out(self, seed: int) -> Task:
        """What it is measured on; from the rows it knows what to leave out."""
        needs = {"rows": self.rows(seed)}
        return Task("held_out", "", needs["rows"].seed, {"data": self.data, **self._sizes("prompts", "pairs")}, needs)

    def _sizes(self, *names: str) -> dict[str, Any]:
        return {"evaluation": {name: getattr(self.plan.evaluation, name) for name in names}}

    def start(self, seed: int) -> dict[str, Task]:
        """The policy that all methods start from, where the plan trains it."""
        if self.plan.sft is None:
            return {}
        given = {**self._models, "settings": dict(self._shared(SFTConfig) | dict(self.plan.sft))}
        return {"start": Task("sft", "", self.stage_seed(seed), given, {"rows": self.rows(seed)})}

    def reward(self, seed: int) -> dict[str, Task]:
        """The reward model, where the plan trains it."""
        if not isinstance(self.plan.reward, Mapping):
            return {}
        given = {**self._models, "settings": dict(self._shared(RewardConfig) | dict(self.plan.reward))}
        needs = {"encoded": self.encode(seed, given["settings"]), **self.start(seed)}
        return {"reward": Task("reward", "", self.stage_seed(seed), given, needs)}

    def encode(self, seed: int, settings: Mapping[str, Any]) -> Task:
        """The pairs as token ids, once for all that train on them with the same settings."""
        given = {**self._models, "settings": self._encoding(settings)}
        needs = {"rows": self.rows(seed), **self.start(seed)}
        return Task("encode", "", _one_for_all(needs), given, needs)

    @staticmethod
    def _encoding(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {name: settings[name] for name in ENCODING if name in settings}

    def reference(self, seed: int) -> Task:
        """The reference's log-probs of the pairs, once for all methods that share it."""
        settings = {name: value for name, value in self._shared(DPOConfig).items() if name in REFERENCE}
        needs = {"encoded": self.encode(seed, self.plan.training), **self.start(seed)}
        return Task("reference", "", _one_for_all(needs), {**self._models, "settings": settings}, needs)

    @cached_property
    def _share_reference(self) -> set[str]:
        """The methods that read one pass of the reference, if there are several."""
        found = {way.name for way in self.plan.ways.values() if shares_reference(way)}
        return found if len(found) > 1 else set()

    def train(self, way: Way, seed: int) -> dict[str, Task]:
        """The training of a method; none for one that trains nothing."""
        if not way.trains:
            return {}
        if way.scored and self.plan.reward is None:
            raise PlanError(f"methods: {way.name}: it needs a reward model: give the plan a `reward`")
        needs = {"rows": self.rows(seed), **self.start(seed)}
        if not way.draws:
            needs["encoded"] = self.encode(seed, way.arguments)
        if way.name in self._share_reference:
            needs["reference"] = self.reference(seed)
        if way.scored or self.plan.evaluation.curve_points:  # the reward model also judges the curve
            needs |= self.reward(seed)
        return {"train": Task("train", way.name, seed, self._training(way), needs)}

    def _training(self, way: Way) -> dict[str, Any]:
        budget = None if self.plan.budget is None else asdict(self.plan.budget)
        curve = {name: getattr(self.plan.evaluation, name) for name in CURVE}
        how = {"method": way.method, "settings": dict(way.settings), "training": dict(self.plan.training)}
        how["stands for"] = {name: str(value) for name, value in way.arguments.items()}
        return {**self._models, **self._scorer, **how, "source": way.identity, "curve": curve, "budget": budget}

    def reference_pairs(self, seed: int) -> Task:
        """The reference's log-probs of the held-out pairs, once for all methods."""
        given = {**self._models, "settings": self._encoding(self.plan.training)}
        needs = {"test": self.held_out(seed), **self.start(seed)}
        return Task("reference_pairs", "", _one_for_all(needs), given, needs)

    def evaluate(self, way: Way, seed: int) -> Task:
        """The measuring of a method on what was held out."""
        given = {**self._models, **self._scorer, **self._sizes(*DRAWN), "choices": self.choices, "n": way.n}
        given |= {"method": None if way.trains else way.method, "settings": self._encoding(self.plan.training)}
        needs = {"test": self.held_out(seed), **self.start(seed), **self.reward(seed), **self.train(way, seed)}
        if way.method != BEST_OF_N:  # which is no policy that could rank pairs
            needs["reference"] = self.reference_pairs(seed)
        return Task("evaluate", way.name, seed, given, needs)

    def measure_reward(self, seed: int) -> Task | None:
        """How often the seed's reward model ranks held-out pairs right."""
        if self.plan.reward is None:
            return None
        needs: dict[str, Task] = {"test": self.held_out(seed), **self.reward(seed)}
        own = self.stage_seed(seed) if "reward" in needs else None
        return Task("rank", REWARD_MODEL, own, dict(self._scorer), needs)

    def judge(self, way: Way, baseline: Way, seed: int, judge: Any) -> Task:
        """What a judge that reads texts says of a method against the baseline."""
        needs = {"test": self.held_out(seed), "ours": self.evaluate(way, seed), "theirs": self.evaluate(baseline, seed)}
        return Task("judge", way.name, seed, {"judge": judge, "source": _source(judge)}, needs)

    def validate(self, way: Way, seed: int) -> Task:
        """The score of a trial's responses to validation prompts."""
        given = {**self._models, **self._scorer, **self._sizes(*DRAWN), "settings": self._encoding(self.plan.training)}
        needs = {"rows": self.rows(seed), **self.start(seed), **self.reward(seed), **self.train(way, seed)}
        return Task("validate", way.name, seed, given, needs)

    @property
    def _models(self) -> dict[str, Any]:
        return {"policy": self.policy, "model": dict(self.plan.model)}

    @property
    def _scorer(self) -> dict[str, Any]:
        """The reward model, where it is not trained here."""
        return {"scorer": identity(self.plan.reward) if isinstance(self.plan.reward, str) else None}

    def _shared(self, kind: type) -> dict[str, Any]:
        """The plan's settings for all trainings that this kind of config has."""
        known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
        return {name: value for name, value in self.plan.training.items() if name in known}


def shares_reference(way: Way) -> bool:
    """Whether it reads log-probs of the plan's pairs by the frozen starting policy, and these pairs alone."""
    if not way.trains or way.draws or way.trainer is not DPOTrainer:
        return False
    needs = objective_of(way).needs
    own = set(ENCODING) & set(way.settings) or way.arguments.get("sync_ref_model")
    return "reference" in needs and "mismatched" not in needs and not own


def _one_for_all(needs: Mapping[str, Task]) -> int | None:
    """The seed of what depends on these tasks, if it depends on a seed at all."""
    return next((task.seed for task in needs.values() if task.seed is not None), None)


REFERENCE = (*ENCODING, "bf16", "fp16", "layout", "per_device_eval_batch_size", "precompute_ref_batch_size")
"""The settings on which log-probs of a reference depend, and how they are computed."""
CURVE = ("curve_points", "max_new_tokens", "temperature", "batch_size")
DRAWN = ("responses_per_prompt", "temperature", "max_new_tokens", "batch_size", "shots")


def identity(source: str) -> list[Any]:
    """A path or hub id with what tells its contents: names, sizes and dates of its files.

    Raises:
        PlanError: what looks like a file is not there.
    """
    path = Path(source).expanduser()
    if source != TESTBED and not path.exists() and (path.suffix in FILES or source.startswith((".", "/", "~"))):
        raise PlanError(f"{source}: there is no such file or folder, seen from {Path.cwd()}")
    if source == TESTBED or not path.exists():
        return [source]
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [source, *([str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns] for file in files)]


def _source(judge: Any) -> Any:
    """What changes when a judge does that is named and not described."""
    if isinstance(judge, Mapping):
        return _source(judge["judge"]) if "judge" in judge else None
    return judge_from(judge, folder=".").fingerprint if FUNCTION.fullmatch(judge) else identity(judge)


def _place(value: Any) -> Any:
    return identity(value) if isinstance(value, str) and value != "auto" else value


def _check_stage(name: str, settings: Any, kind: type) -> None:
    if isinstance(settings, Mapping):
        check_settings(name, settings, {each.name for each in fields(kind)})  # type: ignore[arg-type]


def check_training(plan: Plan) -> None:
    """Refuse a setting for all that no method could have.

    Raises:
        PlanError: there is one.
    """
    kinds = [
        PreferenceConfig,
        *(each.config for each in NAMED),
        *(way.config for way in plan.ways.values() if way.trains),
    ]
    check_settings("training", plan.training, {each.name for kind in kinds for each in fields(kind)})

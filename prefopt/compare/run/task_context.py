"""Gives a task's function what it reads: the rows, models and results of the tasks that it needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from ...generation.samplers import Sampler, folder_at, sampler_from
from ...models.load import load_policy
from ...models.modes import freeze, is_quantized
from ...models.reference import fingerprint
from ...objectives.engine_arguments import EngineArguments
from ...scoring.http import is_service, service_from
from ...scoring.reward_model import RewardModelScorer
from ...scoring.scorer import Scorer
from ...tasks import Task
from ...training.arguments import ModelConfig, get_quantization_config, loading
from ...training.build import tokenizer_for
from ...training.config import PreferenceConfig
from ..measure import ResponseEvaluator
from ..plan import Data, DatasetSource, Evaluation, HeldOutData, TrainingData, built, make_dataset_source
from .tasks import ENCODING, ENGINE

MODEL = "model"


@dataclass(frozen=True)
class TaskContext:
    """A task, and the folder of the comparison, in which all results lie."""

    task: Task
    out: Path

    @property
    def folder(self) -> Path:
        return self.task.folder(self.out)

    @property
    def inputs(self) -> Mapping[str, Any]:
        return self.task.inputs

    @property
    def seed(self) -> int:
        return self.task.seed or 0

    def folder_of(self, role: str) -> Path | None:
        """The folder of a task that this one needs, None if it needs none in this role."""
        return self.task.needs[role].folder(self.out) if role in self.task.needs else None

    @property
    def rows(self) -> TrainingData:
        return TrainingData.read(self.task.needs["rows"].folder(self.out))

    @property
    def held_out(self) -> HeldOutData:
        return HeldOutData.read(self.task.needs["test"].folder(self.out))

    @property
    def encoded(self) -> Dataset:
        return Dataset.load_from_disk(self.task.needs["encoded"].folder(self.out) / "train")

    @property
    def model(self) -> ModelConfig:
        return built(ModelConfig, self.inputs["model"], "model")

    @property
    def start(self) -> str:
        """The folder or hub id of the policy that methods start from."""
        trained = self.folder_of("start")
        return os.path.expanduser(self.inputs["policy"][0]) if trained is None else str(trained / MODEL)

    def scorer(self) -> Scorer | None:
        """The reward model, or the service in its place; None where the plan has none."""
        trained, named = self.folder_of("reward"), self.inputs["scorer"]
        if trained is None and named is None:
            return None
        if trained is None and is_service(named[0]):
            return service_from(named[0], name="score")
        return RewardModelScorer(os.path.expanduser(named[0]) if trained is None else trained / MODEL, name="score")

    def policy(self, source: str) -> Any:
        """A policy from a folder or hub id, loaded as the plan says, for evaluation."""
        kwargs = loading(self.model)
        policy = load_policy(source, quantization_config=get_quantization_config(self.model), **kwargs)
        return freeze(policy if is_quantized(policy) else policy.to(device()))

    @property
    def tokenizer(self) -> Any:
        """The starting policy's tokenizer, with the settings that trainers give it."""
        return tokenizer_for(self.start, self.encoding)

    @property
    def own_tokenizer(self) -> Any:
        """That of a checkpoint which reads or writes text by other ids than the starting policy does; else None.

        Such a policy has no divergence from the starting one: what one samples, the other cannot say.
        """
        if "checkpoint" not in self.inputs:
            return None
        own = tokenizer_for(self.policy_folder, self.encoding)
        return None if fingerprint({}, own, ()) == fingerprint({}, self.tokenizer, ()) else own

    @property
    def encoding(self) -> PreferenceConfig:
        """The plan's settings of how texts become token ids."""
        settings = {**self.inputs.get("training", {}), **self.inputs.get("settings", {})}
        kept = {name: settings[name] for name in ENCODING if name in settings}
        return PreferenceConfig(str(self.folder), use_cpu=True, **kept)

    @property
    def sampler(self) -> Sampler:
        """Who samples from policies that do not train at the time."""
        return sampler_from(built(EngineArguments, self.inputs.get(ENGINE, {}), "training"))

    def serving(self, source: str, policy: Any) -> AbstractContextManager[Any]:
        """A policy that was loaded from `source`, as `sample` takes it."""
        self.sampler.check(policy, trains=False)
        return self.sampler.serving(policy, folder_at(source))

    def evaluator(
        self, sizes: Mapping[str, Any], stream: tuple[int, ...], scorer: Any, source: str | None = None
    ) -> ResponseEvaluator:
        """Generates responses as the plan says, and measures them.

        Args:
            source: where the policy that it is for was loaded from; None of one that trains.
            sizes: `temperature`, `max_new_tokens` and `batch_size` of sampling.
            stream: sets the random numbers apart from those of other evaluations.
        """
        reference = self.policy(self.start)
        sampling = {name: sizes[name] for name in ("temperature", "max_new_tokens", "batch_size")}
        serve = nullcontext if source is None else partial(self.serving, source)
        return ResponseEvaluator(
            self.tokenizer, reference, scorer, self.source.gold, **sampling, stream=stream, serve=serve
        )

    @property
    def policy_folder(self) -> str:
        """The folder or hub id of the policy that the method's training ended with, or that was trained elsewhere."""
        if (checkpoint := self.inputs.get("checkpoint")) is not None:
            return os.path.expanduser(checkpoint[0])
        trained = self.folder_of("train")
        if trained is None:
            return self.start
        return str(trained / MODEL / "policy" if (trained / MODEL / "policy").is_dir() else trained / MODEL)

    @property
    def source(self) -> DatasetSource:
        return source_from(self.task.needs["test" if "test" in self.task.needs else "rows"].inputs)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def source_from(inputs: Mapping[str, Any]) -> DatasetSource:
    """The dataset source that a task of kind "rows" or "held_out" has by its inputs."""
    given = {name: value for name, value in inputs["data"].items() if name != "reading"}
    data = {name: value[0] if isinstance(value, list) else value for name, value in given.items()}
    return make_dataset_source(Data(**data), Evaluation(**inputs["evaluation"]))

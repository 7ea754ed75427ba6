"""A task as the process sees that carries it out: where its rows, its models and its results are. Trains nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from ...models.load import load_policy
from ...models.modes import freeze, is_quantized
from ...scoring.reward_model import RewardModelScorer
from ...training.arguments import ModelConfig, get_quantization_config, loading
from ...training.build import tokenizer_for
from ...training.config import PreferenceConfig
from ..measure.responses import Measure
from ..plan.plan import Data, Evaluation
from ..plan.sections import built
from ..plan.sources import HeldOut, Rows, World, world_of
from .tasks import ENCODING, Task

MODEL = "model"


@dataclass(frozen=True)
class Job:
    """A task and where everything lies."""

    task: Task
    out: Path

    @property
    def folder(self) -> Path:
        return self.task.folder(self.out)

    @property
    def given(self) -> Mapping[str, Any]:
        return self.task.given

    @property
    def seed(self) -> int:
        return self.task.seed or 0

    def place(self, role: str) -> Path | None:
        return self.task.needs[role].folder(self.out) if role in self.task.needs else None

    @property
    def rows(self) -> Rows:
        return Rows.read(self.task.needs["rows"].folder(self.out))

    @property
    def test(self) -> HeldOut:
        return HeldOut.read(self.task.needs["test"].folder(self.out))

    @property
    def encoded(self) -> Dataset:
        return Dataset.load_from_disk(self.task.needs["encoded"].folder(self.out) / "train")

    @property
    def model(self) -> ModelConfig:
        return built(ModelConfig, self.given["model"], "model")

    @property
    def start(self) -> str:
        """The policy that methods start from."""
        trained = self.place("start")
        return os.path.expanduser(self.given["policy"][0]) if trained is None else str(trained / MODEL)

    def scorer(self) -> RewardModelScorer | None:
        trained, named = self.place("reward"), self.given["scorer"]
        if trained is None and named is None:
            return None
        return RewardModelScorer(os.path.expanduser(named[0]) if trained is None else trained / MODEL, name="score")

    def policy(self, source: str) -> Any:
        """Loaded as the plan says, to be measured."""
        kwargs = loading(self.model)
        policy = load_policy(source, quantization_config=get_quantization_config(self.model), **kwargs)
        return freeze(policy if is_quantized(policy) else policy.to(device()))

    @property
    def tokenizer(self) -> Any:
        """The starting policy's, as trainers see it."""
        return tokenizer_for(self.start, self.encoding)

    @property
    def encoding(self) -> PreferenceConfig:
        """What the plan says of how texts become ids."""
        settings = {**self.given.get("training", {}), **self.given.get("settings", {})}
        kept = {name: settings[name] for name in ENCODING if name in settings}
        return PreferenceConfig(str(self.folder), use_cpu=True, **kept)

    def measure(self, sizes: Mapping[str, Any], stream: tuple[int, ...], scorer: Any) -> Measure:
        """How responses are drawn and judged."""
        reference = self.policy(self.start)
        drawn = {name: sizes[name] for name in ("temperature", "max_new_tokens", "batch_size")}
        return Measure(self.tokenizer, reference, scorer, self.world.gold, **drawn, stream=stream)

    @property
    def policy_folder(self) -> str:
        """The policy that a method ended with."""
        trained = self.place("train")
        if trained is None:
            return self.start
        return str(trained / MODEL / "policy" if (trained / MODEL / "policy").is_dir() else trained / MODEL)

    @property
    def world(self) -> World:
        return world_like(self.task.needs["test" if "test" in self.task.needs else "rows"].given)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def world_like(given: Mapping[str, Any]) -> World:
    """The world of a task that makes rows."""
    data = {name: value[0] if isinstance(value, list) else value for name, value in given["data"].items()}
    return world_of(Data(**data), Evaluation(**given["evaluation"]))

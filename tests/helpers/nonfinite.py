"""Runs with rows whose gradient is not finite, watched step by step."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback

from prefopt import PreferenceConfig, PreferenceTrainer
from prefopt.objectives.base import Objective
from prefopt.objectives.reward import BradleyTerry
from prefopt.testbed.model import build_tokenizer
from tests.helpers.models import tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

PLAIN = ragged_pairs(12)

BAD = 5


def with_margins(*bad: int, value: float = math.nan) -> Dataset:
    return PLAIN.add_column("margin", [value if i in bad else 0.1 for i in range(len(PLAIN))])


class Watch(TrainerCallback):
    """Weights and optimizer state after every step, the state before the first one included."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.moments: list[dict[int, dict[str, Tensor]]] = []
        self.trainer: Any = None
        self.states: list[dict[str, Tensor]] = []

    def on_step_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any
    ) -> None:
        if not self.weights:
            self.on_step_end(args, state, control, model, optimizer)

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any
    ) -> None:
        self.weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]).clone())
        self.moments.append(copy.deepcopy(optimizer.state_dict()["state"]))
        self.states.append(dict(self.trainer.step.state))


def build(tmp_path: Path, rows: Dataset, objective: Objective | None = None, **args: Any) -> PreferenceTrainer:
    steps = {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "train_sampling_strategy": "sequential",
    }
    watch = Watch()
    watch.trainer = PreferenceTrainer(
        tiny_llama(),
        objective or BradleyTerry(margin="column"),
        PreferenceConfig(**quiet(tmp_path, **steps | args)),
        rows,
        processing_class=build_tokenizer(),
        callbacks=[watch],
    )
    watch.trainer.watch = watch
    return watch.trainer


def unchanged(trainer: PreferenceTrainer) -> list[bool]:
    """For each step, whether it left weights and moments exactly as they were."""
    found = []
    for i in range(1, len(trainer.watch.weights)):
        same = torch.equal(trainer.watch.weights[i], trainer.watch.weights[i - 1])
        before, after = trainer.watch.moments[i - 1 : i + 1]
        assert same == (
            before.keys() == after.keys()
            and all(
                torch.equal(after[p][name], tensor) for p, state in before.items() for name, tensor in state.items()
            )
        )
        found.append(same)
    return found

"""Runs that save checkpoints, small enough to be killed and resumed many times."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor

from prefopt import PreferenceConfig, PreferenceTrainer
from prefopt.objectives.base import Objective
from prefopt.objectives.dpo import DPO
from prefopt.testbed.model import build_tokenizer
from tests.helpers.models import tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

ROWS = ragged_pairs(12)

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")

BASE = {
    "max_steps": 6,
    "save_strategy": "steps",
    "save_steps": 2,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "linear",
    "warmup_steps": 2,
}


def build(
    folder: Path, objective: Objective | None = None, model: Any = None, peft_config: Any = None, **args: Any
) -> PreferenceTrainer:
    config = PreferenceConfig(**quiet(folder, **BASE | args))
    model = tiny_llama() if model is None else model
    return PreferenceTrainer(
        model, objective or DPO(), config, ROWS, ROWS, build_tokenizer(), peft_config=copy.deepcopy(peft_config)
    )


def weights(trainer: PreferenceTrainer) -> dict[str, Tensor]:
    """A copy of the model's weights, buffers included."""
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def logs(trainer: PreferenceTrainer, after: int = 0) -> list[dict[str, float]]:
    """What was logged at the steps after `after`."""
    return [log for log in trainer.state.log_history if "loss" in log and log["step"] > after]


def saved(folder: Path) -> list[str]:
    """What stands in the folder of the run of `build(folder)`, but for what the doctor reads."""
    return sorted(p.name for p in (folder / "run").iterdir() if p.name != "doctor.json")


def by_tokens(folder: Path, **args: Any) -> PreferenceTrainer:
    """Seven batches an epoch of one row to three."""
    return build(folder, **{"max_tokens_per_batch": 50} | args)

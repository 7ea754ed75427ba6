"""The stages that train, SFT and the reward model, go on from their checkpoints as methods do."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from prefopt import PreferenceTrainer
from prefopt.compare.plan import plan_from
from prefopt.compare.run.tasks import Tasks
from prefopt.tasks import Task, in_order
from prefopt.tasks.worker import run_task

PLAN: dict[str, Any] = {
    "policy": "testbed",
    "data": {"train": "testbed", "train_rows": 24},
    "sft": {"max_steps": 3, "learning_rate": 3e-3},
    "reward": {"max_steps": 3, "learning_rate": 1e-3},
    "training": {"per_device_train_batch_size": 4, "max_length": 128, "bf16": False, "gradient_checkpointing": False},
    "evaluation": {"prompts": 4, "pairs": 4},
    "methods": {"dpo": {"max_steps": 1}},
    "judges": [],
}


def models(task: Task, out: Path) -> dict[str, bytes]:
    folder = task.folder(out) / "model"
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def test_a_stage_that_is_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = in_order(Tasks(plan_from(PLAN)).reward(0).values())
    assert {"sft", "reward"} <= {task.kind for task in tasks}
    whole, stopped, steps = tmp_path / "whole", tmp_path / "stopped", []
    assert all([run_task(task, whole, 30) for task in tasks])
    step = PreferenceTrainer.training_step

    def counted(trainer: PreferenceTrainer, *args: Any, **kwargs: Any) -> Any:
        steps.append(trainer.state.global_step)
        if steps == [0, 1]:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, *args, **kwargs)

    monkeypatch.setattr(PreferenceTrainer, "training_step", counted)
    for task in tasks:
        steps.clear()
        if task.kind in ("sft", "reward"):
            assert not run_task(task, stopped, 30)
            assert [path.name for path in task.folder(stopped).glob("run/checkpoint-*")] == ["checkpoint-2"]
            assert "after step 2 of 3" in task.failure(stopped)["details"]
        assert run_task(task, stopped, 30)
        if task.kind in ("sft", "reward"):
            assert steps == [0, 1, 2]
            assert models(task, stopped) == models(task, whole) != {}
            assert not list(task.folder(stopped).glob("run/checkpoint-*"))

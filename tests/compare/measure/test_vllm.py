"""Comparisons whose evaluation samples by vLLM: from which policy, and which tasks are other ones by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prefopt.compare import compare
from prefopt.compare.plan import PlanError, plan_from
from prefopt.compare.run import Tasks
from tests.helpers.vllm import asked_of, fake_vllm

PLAN: dict[str, Any] = {
    "policy": "testbed",
    "data": {"train": "testbed", "train_rows": 24},
    "sft": {"max_steps": 2, "learning_rate": 3e-3, "per_device_train_batch_size": 16},
    "reward": {"max_steps": 1},
    "training": {"per_device_train_batch_size": 8, "max_length": 128, "max_new_tokens": 8, "bf16": False},
    "evaluation": {"prompts": 4, "pairs": 4, "responses_per_prompt": 2, "max_new_tokens": 8, "curve_points": 0},
    "methods": {"rejection-sampling": {"iterations": 1, "responses_per_prompt": 4}, "best-of-n": {"n": 2}},
}


def plan(**training: Any) -> dict[str, Any]:
    return {**PLAN, "training": {**PLAN["training"], **training}}


def test_methods_that_sample_and_their_evaluation_do_so_by_vllm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, out = tmp_path / "asked.jsonl", tmp_path / "out"
    fake_vllm(monkeypatch, log)
    findings = compare(plan(use_vllm=True), out, jobs=1)
    assert findings.failures == []
    served = [each["start"]["model"] for each in asked_of(log) if "start" in each]
    trained = [place for place in served if place.endswith("policy-to-sample")]
    assert len(trained) == 1 and len(served) == 4  # the baseline, best-of-n and the trained policy are evaluated
    assert len({place for place in served if place.endswith("model")}) == 2


def test_only_what_samples_is_another_task_by_it() -> None:
    ours, theirs = (Tasks(plan_from(plan(**more))) for more in ({}, {"use_vllm": True}))
    methods = ours.plan.method_specs
    assert ours.reward(0)["reward"].key == theirs.reward(0)["reward"].key
    for name in ("sft", "best-of-n", "rejection-sampling"):
        first, second = (tasks.evaluate(tasks.plan.method_specs[name], 0) for tasks in (ours, theirs))
        assert first.key != second.key and "engine" not in first.inputs
    assert methods["rejection-sampling"].arguments.get("use_vllm") is None
    assert theirs.plan.method_specs["rejection-sampling"].arguments["use_vllm"] is True


def test_a_temperature_that_vllm_would_change_is_refused_with_the_plan() -> None:
    given = plan(use_vllm=True)
    with pytest.raises(PlanError, match=r"training: temperature=2.5: vLLM"):
        plan_from({**given, "evaluation": {**given["evaluation"], "temperature": 2.5}})

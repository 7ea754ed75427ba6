"""Rounds whose stages sample by vLLM: which of them do, from which policy, and what it makes other tasks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from prefopt.candidates import Pool
from prefopt.compare.plan import PlanError
from prefopt.rounds import rounds_plan_from, run_rounds
from prefopt.rounds.tasks import RoundTasks
from tests.helpers.rounds import TINY
from tests.helpers.vllm import asked_of, fake_vllm


def plan(**training: Any) -> dict[str, Any]:
    given = copy.deepcopy(TINY)
    given["training"] |= training
    given["rounds"] = 1
    return given


def test_every_stage_that_samples_does_so_by_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, out = tmp_path / "asked.jsonl", tmp_path / "out"
    fake_vllm(monkeypatch, log)
    given = plan(use_vllm=True)
    run = run_rounds(given, out, jobs=1, console=Console(quiet=True))
    assert run.failures == {} and run.versions == (0, 1)
    tasks = RoundTasks(rounds_plan_from(given))
    served = {each["start"]["model"] for each in asked_of(log) if "start" in each}
    folders = {str(tasks.policy_of(number).folder(out) / "model") for number in (0, 1)}
    assert served == folders
    pool = tasks.pool(1)
    assert pool is not None
    versions = {each.policy for each in Pool(pool.folder(out) / "pool").candidates()}
    assert len(versions) == 1 and versions.pop().endswith("-vllm-float32")


def test_only_stages_that_sample_are_other_tasks_by_it() -> None:
    ours, theirs = (RoundTasks(rounds_plan_from(plan(**more))) for more in ({}, {"use_vllm": True}))
    assert ours.start.key == theirs.start.key and ours.rows.key == theirs.rows.key
    for name in ("candidates", "search", "pool", "evaluate"):
        assert getattr(ours, name)(1).key != getattr(theirs, name)(1).key, name
        assert "engine" not in getattr(ours, name)(1).inputs
        assert getattr(theirs, name)(1).inputs["engine"] == {"use_vllm": True}


@pytest.mark.parametrize(
    ("round", "training", "message"),
    [
        ({"sample": {"temperatures": [0.7, 2.5]}}, {}, r"temperature=2.5: vLLM"),
        ({"label": {"temperatures": [0.001, 1.0]}}, {}, r"temperature=0.001: vLLM"),
        ({}, {"vllm_mode": "server"}, r"training: vllm_mode='server'.*needs a URL"),
    ],
    ids=str,
)
def test_what_vllm_cannot_sample_is_refused_with_the_plan(
    round: dict[str, Any], training: dict[str, Any], message: str
) -> None:
    given = plan(use_vllm=True, **training)
    for stage, settings in round.items():
        given["round"][stage] |= settings
    with pytest.raises(PlanError, match=message):
        _ = rounds_plan_from(given).each

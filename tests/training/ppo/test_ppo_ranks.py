"""PPO in processes of its own: killed at any moment it goes on bit by bit, and two processes train as one does."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.processes import ROOT, launch

KILLS = 3
PPO_RANKS = "tests.helpers.programs.ppo_ranks"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return launch(1, PPO_RANKS, folder=str(tmp_path_factory.mktemp("whole")))


def killed(folder: Path, lines: int, delay: float) -> bool:
    """Kill a run `delay` seconds after its trace has so many lines; whether it was still at work."""
    command = [sys.executable, "-m", PPO_RANKS, json.dumps({"folder": str(folder)})]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    trace = folder / "run" / "rollouts.jsonl"
    while process.poll() is None and (not trace.is_file() or trace.read_bytes().count(b"\n") < lines):
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def test_a_run_killed_anywhere_goes_on_bit_by_bit(whole: dict[str, Any], tmp_path: Path) -> None:
    """Prompts, random numbers, moments of rewards, the KL's weight, both models, both schedules, and the records."""
    rng = random.Random(20)
    caught = [killed(tmp_path, lines, rng.random() * 0.4) for lines in range(1, KILLS + 1)]
    assert any(caught)
    again = launch(1, PPO_RANKS, folder=str(tmp_path))
    assert again["resumed"]
    assert {**again, "resumed": False} == whole


def test_two_processes_train_as_one(whole: dict[str, Any], tmp_path: Path) -> None:
    """Tolerances are those of sums taken in another order, in float64."""
    two = launch(2, PPO_RANKS, folder=str(tmp_path))
    assert (whole["world"], two["world"]) == (1, 2)
    for name, sums in whole["weights"].items():
        assert two["weights"][name] == pytest.approx(sums, rel=1e-9)
    assert two["state"] == pytest.approx(whole["state"], rel=1e-9)
    for a, b in zip(whole["trace"], two["trace"], strict=True):
        assert [one["response"] for one in a["samples"]] == [one["response"] for one in b["samples"]]
        assert b["scores"] == pytest.approx(a["scores"], rel=1e-6)
        assert b["metrics"] == pytest.approx(a["metrics"], rel=1e-6, abs=1e-9)
    for name, values in whole["logs"].items():
        assert two["logs"][name] == pytest.approx(values, rel=1e-6, abs=1e-9)

"""One and two processes give the same numbers.

Some launchers silently run one process, so the world size is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def launch(processes: int, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PREFOPT_CACHE": tempfile.mkdtemp()}
    done = subprocess.run(
        [*command, "tests.ranks", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert done.returncode == 0 and len(lines) == 1, done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("RESULT "))


@pytest.fixture(scope="module")
def one_and_two() -> tuple[dict[str, Any], dict[str, Any]]:
    """13 rows, 8 a step: one process takes 4x2, two take 2x2 each, and the last step is ragged."""
    return launch(1, "4", "2"), launch(2, "2", "2")


def test_two_processes_really_ran(one_and_two: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert {case["world"] for case in one_and_two[0].values()} == {1}
    assert {case["world"] for case in one_and_two[1].values()} == {2}


def test_evaluation_is_the_same(one_and_two: tuple[dict[str, Any], dict[str, Any]]) -> None:
    one, two = one_and_two
    for name in one:
        assert two[name]["eval"] == pytest.approx(one[name]["eval"], rel=1e-9, abs=1e-9), name


def test_training_is_the_same(one_and_two: tuple[dict[str, Any], dict[str, Any]]) -> None:
    one, two = one_and_two
    for name in one:
        assert len(one[name]["logs"]) == 4
        for ours, theirs in zip(one[name]["logs"], two[name]["logs"], strict=True):
            assert theirs == pytest.approx(ours, rel=1e-6, abs=1e-8), name
        assert two[name]["weights"] == pytest.approx(one[name]["weights"], rel=1e-9, abs=1e-9), name

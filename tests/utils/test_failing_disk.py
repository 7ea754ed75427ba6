"""Runs on a disk that fails, and on damaged folders: never another result, and always the file's name.

PREFOPT_FAULTS says which share of all changes of files, and of all damages of each, the slow tests try: a tenth if it
is not set, and with 1, which takes hours, every one. `python -m tests.helpers.programs.faulted_runs` and `damaged_runs`
tell of each, and print a table.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.failing_disk import POSSIBLE
from tests.helpers.processes import completed

FAULTED, DAMAGED = "tests.helpers.programs.faulted_runs", "tests.helpers.programs.damaged_runs"
PART = float(os.environ.get("PREFOPT_FAULTS", "0.1"))
EVERY = {"dpo": 100, "dpo-lora": 60, "dpo-precomputed": 60, "ppo-max": 60, "rejection-sampling-searched": 100}
"""Methods, and how many cases of each there are at least."""
IN_STAGES = {"compare": 400, "rounds": 400}
HOURS = 4 * 3600.0
"""Seconds: every case is one run, or two."""


def tried(program: str, folder: Path, **arguments: Any) -> list[dict[str, Any]]:
    lines = completed(1, program, json.dumps({"folder": str(folder), **arguments}), HOURS).stdout.splitlines()
    return [json.loads(line.removeprefix("RESULT ")) for line in lines if line.startswith("RESULT ")]


def check(found: list[dict[str, Any]], allowed: set[str], least: int) -> None:
    assert [each for each in found if each["outcome"] not in allowed] == []
    assert len(found) >= least


@pytest.mark.skipif(not POSSIBLE, reason="needs a C compiler, and Linux")
def test_a_checkpoint_that_cannot_be_written_is_told_and_gone_on_without(tmp_path: Path) -> None:
    found = tried(FAULTED, tmp_path, methods=["dpo-lora"], only=r"checkpoint-N/optimizer|checkpoint-N$")
    check(found, {"error", "went on"}, least=6)


def test_damage_of_a_checkpoint_falls_back_or_is_refused(tmp_path: Path) -> None:
    found = tried(DAMAGED, tmp_path, methods=["dpo-lora"], only="adapter_model|trainer_state")
    check(found, {"equal, named"}, least=8)


@pytest.mark.slow
@pytest.mark.skipif(not POSSIBLE, reason="needs a C compiler, and Linux")
@pytest.mark.parametrize("method", [*EVERY, *IN_STAGES])
def test_changes_of_all_files_fail_once(method: str, tmp_path: Path) -> None:
    found = tried(FAULTED, tmp_path, methods=[method], part=PART)
    check(found, {"error", "went on"}, round(PART * (EVERY | IN_STAGES)[method]))


@pytest.mark.slow
@pytest.mark.parametrize("method", [*EVERY, *IN_STAGES])
def test_all_files_are_damaged_in_all_ways(method: str, tmp_path: Path) -> None:
    found = tried(DAMAGED, tmp_path, methods=[method], part=PART)
    check(found, {"equal", "equal, named", "refused, named"}, round(PART * (EVERY | IN_STAGES)[method] / 2))

"""Runs of every method that are killed at random moments, run again by the same call, end bit by bit as others do.

PREFOPT_KILLS says how many kills a method gets in the slow tests, of which the others are a share;
`python -m tests.helpers.programs.killed_runs` tells of each, and prints a table.
"""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.processes import completed, launch

KILLS = int(os.environ.get("PREFOPT_KILLS", "2"))
PROGRAM = "tests.helpers.programs.killed_runs"
HOURS = 2 * 3600.0
"""Seconds that all methods may take, on a busy machine."""
FEW = dict.fromkeys(("dpo-lora", "rejection-sampling", "ppo-max", "dpo-two-ranks"), 1)
ALONE = ("sft", "dpo", "dpo-lora", "dpo-precomputed", "reward", "rrhf", "rejection-sampling", "ppo-max")
RANKS = (
    *("dpo-two-ranks", "rejection-sampling-two-ranks", "ppo-max-two-ranks"),
    *("dpo-fsdp2", "rejection-sampling-fsdp2", "ppo-max-fsdp2"),
)
ALL = {**dict.fromkeys((*ALONE, *RANKS), KILLS), "compare": 2 * KILLS}


def attempts(folder: Path, methods: dict[str, int], name: str, seed: int) -> list[dict[str, Any]]:
    argument = json.dumps({"folder": str(folder), "methods": methods, "signal": name, "seed": seed})
    lines = completed(1, PROGRAM, argument, HOURS).stdout.splitlines()
    return [json.loads(line.removeprefix("RESULT ")) for line in lines if line.startswith("RESULT ")]


def check(found: list[dict[str, Any]], methods: dict[str, int], name: str) -> None:
    assert {each["method"] for each in found} == methods.keys()
    assert [each for each in found if each["differs"]] == []
    for method, count in methods.items():
        struck = [kill for each in found if each["method"] == method for kill in each["kills"]]
        assert len(struck) == count
        if name == "SIGKILL":
            # The other rank is killed as soon as the first is seen to be dead; it may have failed by then.
            assert all(-signal.SIGKILL in kill["statuses"] and 0 not in kill["statuses"] for kill in struck)
        else:
            for kill in struck:
                check_word(kill)


def check_word(kill: dict[str, Any]) -> None:
    """The status is the signal's, in words, and where a step was done there is a checkpoint of it."""
    assert set(kill["statuses"]) == {143} and kill["said"] and not kill["tracebacks"], kill
    after = re.search(r"after step (\d+) of", kill["said"])
    if after and int(after[1]):
        assert f"checkpoint-{after[1]}\n" in kill["said"], kill


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_run_killed_anywhere_ends_as_one_that_nobody_disturbs(name: str, tmp_path: Path) -> None:
    check(attempts(tmp_path, FEW, name, seed=1), FEW, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_every_method_killed_often_does_so_too(name: str, tmp_path: Path) -> None:
    check(attempts(tmp_path, ALL, name, seed=2), ALL, name)


STAGES = ["before they have met", "between set-up and training", "in a step", "while saving the end", "while scoring"]


@pytest.mark.parametrize("stages", [STAGES, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
def test_a_signal_to_one_of_two_ranks_ends_both_with_its_status(stages: list[str] | None, tmp_path: Path) -> None:
    """At stages of a run; the same call then goes on to its end."""
    found = launch(1, "tests.helpers.programs.signalled_ranks", folder=str(tmp_path), stages=stages)
    assert len(found) == len(stages or range(10))
    for stage, ended in found.items():
        assert ended["statuses"] == [143, 143], (stage, ended)
        assert ended["said"].strip() and not ended["tracebacks"], (stage, ended)
        assert ended["again"] == [0, 0] and ended["whole"], (stage, ended)

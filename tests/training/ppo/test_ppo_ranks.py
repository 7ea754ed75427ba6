"""PPO in processes of its own: two of them train as one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.processes import launch

PPO_RANKS = "tests.helpers.programs.ppo_ranks"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return launch(1, PPO_RANKS, folder=str(tmp_path_factory.mktemp("whole")))


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

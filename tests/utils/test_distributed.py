"""Values that processes share: where one process fails, the others are told instead of waiting for it for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefopt.utils.distributed import made_by_all, or_all_stop
from tests.helpers.processes import launch


def test_alone_an_error_is_what_it_was() -> None:
    assert or_all_stop(lambda: 3) == 3 and made_by_all(lambda: 3) == [3]
    with pytest.raises(ZeroDivisionError):
        or_all_stop(lambda: 1 // 0)


def test_one_that_fails_stops_the_others(tmp_path: Path) -> None:
    found = launch(2, "tests.helpers.programs.failing_ranks", folder=str(tmp_path))
    assert set(found) == {"generate", "score", "evaluate", "rollout"}
    for work, (first, second) in found.items():
        assert "the reward server is away" in second, work
        assert first.startswith("RuntimeError: process 1 of 2 failed: ") and "the reward server is away" in first, work

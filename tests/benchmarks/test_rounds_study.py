"""The study of rounds: arms share what they can, and its tables say what its records hold."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.rounds_study import ARMS, ROUNDS, differences, plan_of, table
from prefopt.rounds import rounds_plan_from
from prefopt.rounds.tasks import RoundTasks
from prefopt.tasks import Task, in_order


def tasks_of(arm: str) -> RoundTasks:
    return RoundTasks(rounds_plan_from(plan_of(arm, 0, {})))


def trained(tasks: RoundTasks) -> list[str]:
    kinds = ("reward", "train")
    wanted: list[Task] = in_order(tasks.report_tasks())
    return [task.key for task in wanted if task.kind in kinds]


def test_arms_differ_where_they_say_and_share_the_rest() -> None:
    refreshed = tasks_of("refreshed")
    assert sum(task.kind == "train" for task in in_order(refreshed.report_tasks())) == ROUNDS
    frozen, last, ppo = (tasks_of(arm) for arm in ("frozen", "last only", "ppo on v4"))
    assert len({frozen.reward(number).key for number in range(1, ROUNDS + 1)}) == 1  # type: ignore[union-attr]
    assert frozen.policy_of(1).key == refreshed.policy_of(1).key != frozen.policy_of(2).key
    assert frozen.policy_of(2).key != refreshed.policy_of(2).key
    assert ppo.policy_of(3).key == refreshed.policy_of(3).key and ppo.policy_of(4).key != refreshed.policy_of(4).key
    assert ppo.policy_of(4).needs["policy"].key == refreshed.policy_of(4).key
    assert last.score(2).needs.keys() == {"reward", "pool 2"} < refreshed.score(2).needs.keys()
    shared = set(trained(refreshed)) & set(trained(ppo))
    assert len(shared) == 2 * ROUNDS - 2 and list(ARMS)[0] == "refreshed"


def test_tables_are_of_each_seed_over_its_own_v0() -> None:
    def record(arm: str, seed: int, version: int, gold: float, temperature: float | None = None) -> dict[str, Any]:
        return {"arm": arm, "seed": seed, "version": version, "gold": gold, "temperature": temperature}

    records = [record("a", s, v, g) for s, golds in ((0, (1.0, 2.0)), (1, (3.0, 6.0))) for v, g in enumerate(golds)]
    records += [
        record("b", s, v, g, 0.8) for s, golds in ((0, (1.0, 1.5)), (1, (3.0, 3.5))) for v, g in enumerate(golds)
    ]
    # Of 1 and 3 the mean is 2, the standard error 1, and Student's quantile with one degree of freedom 12.706.
    assert table(records, "gold", over_first=True)[2:] == ["| a | 2.00 ± 12.71 |", "| b | 0.50 ± 0.00 |"]
    assert table(records, "temperature")[2:] == ["| a |  |  |", "| b | 0.80 ± 0.00 | 0.80 ± 0.00 |"]
    (line,) = differences(records)
    assert line.startswith("v1 of b less that of a: -1.50 ± ")
    assert float(line.rpartition(" ")[2]) == pytest.approx(12.706 * 1.0, abs=0.01)

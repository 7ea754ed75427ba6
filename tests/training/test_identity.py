"""What a run is, in plain values; and what version 0.1.0 wrote, which goes on being read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from transformers import TrainingArguments

from prefopt import DPO, RRHF, Objective, PreferenceConfig
from prefopt.objectives.base import load, registry
from prefopt.training.identity import FORMAT, Comparison, Run, objective_description, plain


def differences(then: Run, now: Run) -> list[str]:
    """What differs and may not, in words."""
    found = Comparison.of(then, now)
    return [found.worded([name]) for name in found.refused()]


@dataclass(frozen=True)
class Mine(Objective):
    scale: float = 2.0

    def loss(self, out: Any, batch: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("name", sorted(registry()))
def test_an_objective_is_described_by_what_json_holds(name: str) -> None:
    objective = load(name)
    description = objective_description(objective)
    assert json.loads(json.dumps(description)) == description
    assert description["name"] == type(objective).__name__
    assert not objective.free & description.keys()


@pytest.mark.parametrize("name", sorted(registry()))
def test_what_0_1_printed_of_an_objective_is_read(name: str) -> None:
    """Format 1 held `repr(objective)`: the same objective does not differ from it, whatever its class is called now."""
    objective = load(name)
    then = {"objective": repr(objective).replace("SFT(", "BestOf("), "seed": 0}
    assert differences(then, {"format": FORMAT, "objective": objective_description(objective), "seed": 0}) == []


def test_what_0_1_printed_tells_what_differs() -> None:
    then = {"objective": "DPO(loss_type=('sigmoid',), loss_weights=None, beta=0.1)", "seed": 3, "processes": 1}
    now = {"format": FORMAT, "objective": objective_description(DPO(beta=0.2)), "seed": 4, "processes": 1}
    assert differences(then, now) == ["objective.beta: 0.1 -> 0.2", "seed: 3 -> 4"]
    other = {"format": FORMAT, "objective": objective_description(RRHF()), "seed": 3}
    assert differences(then, other)[0] == "objective.name: 'DPO' -> 'RRHF'"


def test_arguments_that_0_1_printed_are_read() -> None:
    then = {"learning_rate": "2e-05", "max_steps": "-1", "lr_scheduler_type": "SchedulerType.COSINE"}
    then |= {"optim": "OptimizerNames.ADAMW_BNB", "max_length": "None", "policy": "0a1e", "objective": "best-of-n"}
    args: Any = TrainingArguments(lr_scheduler_type="cosine", optim="adamw_bnb_8bit", learning_rate=2e-5, use_cpu=True)
    now = {name: plain(getattr(args, name)) for name in ("learning_rate", "max_steps", "lr_scheduler_type", "optim")}
    now |= {"format": FORMAT, "max_length": None, "policy": "0a1e", "objective": "best-of-n"}
    assert now["optim"] == "adamw_bnb_8bit" and now["lr_scheduler_type"] == "cosine"
    assert differences(then, now) == []
    assert differences(then, {**now, "learning_rate": 1e-5}) == ["learning_rate: 2e-05 -> 1e-05"]


def test_a_strangers_objective_has_no_address_in_its_description() -> None:
    class Bare(Objective):
        def loss(self, out: Any, batch: Any) -> Any:
            raise NotImplementedError

    assert objective_description(Bare()) == {"name": "Bare"}
    assert objective_description(Mine(scale=3.0))["scale"] == 3.0
    assert differences({"objective": "<mine.Bare object>"}, {"objective": objective_description(Bare())}) == []


def test_values_of_every_kind_become_plain(tmp_path: Any) -> None:
    assert plain({"a": (1, None), "b": {"y", "x"}, "c": tmp_path, "d": PreferenceConfig}) == {
        "a": [1, None],
        "b": ["x", "y"],
        "c": str(tmp_path),
        "d": "type",
    }

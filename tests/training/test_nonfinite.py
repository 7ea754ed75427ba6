"""A step whose gradient is not finite teaches nothing and spoils nothing; a run of them stops with the rows named."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from prefopt import PreferenceTrainer
from prefopt.batch import Batch, Outputs
from prefopt.objectives.base import Loss, Objective, Term
from prefopt.objectives.dpo import DPO
from prefopt.objectives.reward import BradleyTerry
from prefopt.training.nonfinite import NonFiniteGuard
from tests.helpers.nonfinite import BAD, PLAIN, build, unchanged, with_margins
from tests.helpers.processes import completed


def with_ref_logps(*bad: int) -> Dataset:
    """Reference log-probs of which some rows' are not numbers, as a broken cache would have."""
    column = [
        [[math.nan if i in bad else -2.0] * len(ids) for ids in row] for i, row in enumerate(PLAIN["response_ids"])
    ]
    return PLAIN.add_column("ref_logps", column)


def logs(trainer: PreferenceTrainer) -> list[dict[str, float]]:
    return [log for log in trainer.state.log_history if "loss" in log]


def assert_finite(log: dict[str, float], *but: str) -> None:
    assert {name: value for name, value in log.items() if not math.isfinite(value) and name not in but} == {}


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_bad_row_costs_one_step(
    value: float, max_grad_norm: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = build(tmp_path, with_margins(BAD, value=value), max_grad_norm=max_grad_norm)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert unchanged(trainer) == [False, False, True, False, False, False]
    assert trainer.step.guard.skipped == 1
    said = [record.getMessage() for record in caplog.records if "not finite" in record.getMessage()]
    assert len(said) == 1 and said[0].startswith("step 3: ") and "rows [4, 5]" in said[0]
    for step, log in enumerate(logs(trainer), start=1):
        assert_finite(log, *(["grad_norm", "loss"] if step == 3 else []))
        assert log.get("skipped_steps") == (1.0 if step >= 3 else None)
    assert torch.isfinite(trainer.watch.weights[-1]).all()


@pytest.mark.parametrize("objective", [BradleyTerry(margin="column", center_rewards_coefficient=0.01), DPO()])
def test_a_window_of_logs_is_not_spoilt(objective: Objective, tmp_path: Path) -> None:
    """The metrics of a window are those of the rows that count."""
    rows = with_ref_logps(BAD) if isinstance(objective, DPO) else with_margins(BAD)
    trainer = build(tmp_path, rows, objective, logging_steps=6)
    trainer.train()
    (log,) = logs(trainer)
    assert_finite(log)
    assert log["skipped_steps"] == 1 and len(log) > 8
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(log["loss"], rel=1e-6)


def test_a_skipped_step_does_not_pull_the_logged_loss_towards_zero(tmp_path: Path) -> None:
    """At learning rate 0 every step has the loss of its rows, so the mean over the steps that count is known."""
    trainer = build(tmp_path, with_ref_logps(BAD), DPO(), logging_steps=6, learning_rate=0.0)
    trainer.train()
    clean = build(tmp_path, with_ref_logps(), DPO(), logging_steps=1, learning_rate=0.0)
    clean.train()
    (log,), each = logs(trainer), [entry["loss"] for entry in logs(clean)]
    assert log["loss"] == pytest.approx(sum(each[i] for i in range(6) if i != 2) / 5, rel=1e-5)


def test_one_bad_micro_batch_costs_the_whole_step(tmp_path: Path) -> None:
    trainer = build(
        tmp_path, with_margins(BAD), per_device_train_batch_size=1, gradient_accumulation_steps=4, max_steps=3
    )
    trainer.train()
    assert unchanged(trainer) == [False, True, False]
    for log in logs(trainer):
        assert_finite(log, "grad_norm", "loss")


def test_what_an_objective_remembers_is_not_spoilt(tmp_path: Path) -> None:
    """BCO's running mean of rewards would be NaN for good after one bad row."""
    trainer = build(tmp_path, with_ref_logps(BAD), DPO(loss_type=["bco_pair"]))
    trainer.train()
    assert unchanged(trainer) == [False, False, True, False, False, False]
    states = trainer.watch.states
    assert states[0] and all(torch.equal(states[3][name], states[2][name]) for name in states[0])
    assert any(not torch.equal(states[4][name], states[3][name]) for name in states[0])
    assert all(tensor.isfinite().all() for tensor in states[-1].values())


@pytest.mark.parametrize("accumulation", [1, 2])
def test_what_an_objective_remembers_survives_accumulation(accumulation: int, tmp_path: Path) -> None:
    """With more than one micro-batch the state moves before the first of them runs."""
    rows, size = with_ref_logps(BAD), 2 // accumulation
    trainer = build(
        tmp_path,
        rows,
        DPO(loss_type=["bco_pair"]),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
    )
    trainer.train()
    assert unchanged(trainer) == [False, False, True, False, False, False]
    assert all(tensor.isfinite().all() for tensor in trainer.step.state.values())


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_three_in_a_row_stop_the_run(max_grad_norm: float, tmp_path: Path) -> None:
    trainer = build(tmp_path, with_margins(3, 5, 6), max_grad_norm=max_grad_norm)
    with pytest.raises(FloatingPointError, match=r"step 4: .*rows \[6, 7\].*3 times in a row"):
        trainer.train()
    assert unchanged(trainer) == [False, True, True]
    assert trainer.step.guard.skipped == 3
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_how_many_stop_the_run_can_be_told(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="step 2: .*1 times in a row"):
        build(tmp_path, with_margins(3), max_skipped_steps=1).train()
    trainer = build(tmp_path, with_margins(3, 5, 6, 8), max_skipped_steps=5)
    trainer.train()
    assert trainer.step.guard.skipped == 4


def test_bad_steps_that_are_not_in_a_row_do_not_stop_it(tmp_path: Path) -> None:
    trainer = build(tmp_path, with_margins(0, 4, 8))
    trainer.train()
    assert unchanged(trainer) == [True, False] * 3
    assert trainer.step.guard.skipped == 3


@dataclass(kw_only=True)
class Cusp(Objective):
    """A finite loss whose gradient is not: the root of zero."""

    responses = 2

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        zero = (out.required("logps") * 0).sum()
        return Loss({"cusp": Term(zero.abs().sqrt(), "prompts")})


def test_a_finite_loss_with_a_gradient_that_is_not(tmp_path: Path) -> None:
    trainer = build(tmp_path, PLAIN, Cusp())
    with pytest.raises(FloatingPointError, match="step 3: .*no single row: every loss was finite"):
        trainer.train()
    assert unchanged(trainer) == [True, True]


def test_absent_rows_are_not_named() -> None:
    guard = NonFiniteGuard(limit=2)
    guard.suspects = [-1, 0, -1]
    assert guard.rejects(math.nan, 1, searching=False)
    guard.suspects = [-1, 7]
    with pytest.raises(FloatingPointError, match=r"rows \[7\]"):
        guard.rejects(math.inf, 2, searching=False)


def test_a_scaler_that_looks_for_its_scale_is_left_to_it(tmp_path: Path) -> None:
    """float16 overflows on purpose until its scale fits: no reason to stop, unless the loss itself is broken."""
    trainer = build(tmp_path, with_margins())
    trainer.accelerator.scaler = object()
    for _ in range(5):
        assert math.isnan(trainer._get_grad_norm(trainer.model, torch.tensor(math.nan)))
    assert trainer.step.guard.skipped == 0
    trainer.step.guard.suspects = [4]
    trainer._get_grad_norm(trainer.model, torch.tensor(math.nan))
    assert trainer.step.guard.skipped == 1


@pytest.mark.slow
def test_ranks_skip_the_same_steps(tmp_path: Path) -> None:
    completed(2, "tests.helpers.programs.nonfinite_ranks", str(tmp_path))
    one, two = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert one == two and one["world"] == 2
    assert one["unchanged"] == [False, True, False] * 2
    assert "rows [10, 11]" in one["stopped"] and "3 times in a row" in one["stopped"]

"""Objectives written for the old names of methods and flags, and code that imports old names, work with a warning."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import prefopt
from prefopt.batch import Batch, Outputs
from prefopt.objectives import DPO, PPO, SFT, Loss, Objective, Term, load
from tests.helpers.objectives import make


def old_style() -> type[Any]:
    """An objective as one was written in 0.1: each row's loss is the mean of all rows' scores."""
    with pytest.warns(FutureWarning, match=r"Mean\.\w+ is now called") as told:

        @dataclass(kw_only=True)
        class Mean(Objective):
            trains = "scorer"
            observes_outputs = False

            @property
            def couples(self) -> bool:
                return True

            def observe(self, out: Outputs, batch: Batch) -> dict[str, Tensor]:
                return {"lengths": batch.lengths.sum(-1)}

            def couple(
                self, observed: dict[str, Tensor], state: dict[str, Tensor]
            ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
                return {"mean": observed["lengths"].float().mean().expand(observed["lengths"].shape)}, state

            def loss(self, out: Outputs, batch: Batch) -> Loss:
                return Loss({"mean": Term(batch.mean.sum(), "prompts")})

    assert {str(warning.message).split(" is now")[0] for warning in told} == {
        "Mean.observes_outputs",
        "Mean.couples",
        "Mean.observe",
        "Mean.couple",
    }
    assert all(warning.filename == __file__ for warning in told)
    return Mean


def test_an_objective_with_the_old_names_works_under_the_new_ones() -> None:
    mean, (batch, out) = old_style()(), make(DPO())
    assert mean.cross_batch is True and mean.statistics_need_outputs is False
    gathered = mean.gather_statistics(out, batch)
    columns, _ = mean.apply_statistics(gathered, {})
    assert float(columns["mean"][0]) == pytest.approx(float(batch.lengths.sum(-1).float().mean()))


def test_an_override_by_an_old_name_may_call_its_base_by_it() -> None:
    with pytest.warns(FutureWarning, match="observe is now called gather_statistics"):

        @dataclass(kw_only=True)
        class Doubled(DPO):
            def observe(self, out: Outputs, batch: Batch) -> dict[str, Tensor]:
                return {name: 2 * column for name, column in super().observe(out, batch).items()}  # type: ignore[misc]

    doubled, plain = Doubled(loss_type="aot"), DPO(loss_type="aot")
    batch, out = make(plain)
    with pytest.warns(FutureWarning, match=r"observe is now called"):
        gathered = doubled.gather_statistics(out, batch)
    for name, column in plain.gather_statistics(out, batch).items():
        torch.testing.assert_close(gathered[name], 2 * column, rtol=0, atol=0)


def test_old_names_of_our_own_objectives_work() -> None:
    kto: Any = DPO(loss_type="kto")
    batch, out = make(kto)
    with pytest.warns(FutureWarning, match="couples is now called cross_batch"):
        assert kto.couples is True
    with pytest.warns(FutureWarning, match="observe is now called gather_statistics"):
        assert kto.observe(out, batch).keys() == kto.gather_statistics(out, batch).keys()
    for old in ("observe_rollout", "update", "experience", "begun"):
        with pytest.warns(FutureWarning, match=f"PPO.{old} is now called"):
            assert callable(getattr(PPO(), old))


def test_only_an_on_policy_objective_has_the_old_names_of_one() -> None:
    """`update` is a word that anyone may use."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Updating(SFT):
            def update(self) -> None: ...

    assert not hasattr(Updating, "update_state")


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("prefopt", "BestOf", "SFT"),
        ("prefopt.objectives", "BestOf", "SFT"),
        ("prefopt.objectives.sft", "BestOf", "SFT"),
        ("prefopt.models.layout_selection", "choose", "request_layout"),
        ("prefopt.utils.flop_counter", "Tally", "FlopCounter"),
        ("prefopt.utils.tensors", "wide", "upcast"),
    ],
)
def test_an_old_name_is_the_new_one(module: str, old: str, new: str) -> None:
    room = importlib.import_module(module)
    with pytest.warns(FutureWarning, match=f"{old} is now {new}; the old name goes in 0.3") as told:
        assert getattr(room, old) is getattr(room, new)
    assert told[0].filename == __file__
    assert old not in getattr(room, "__all__", ())


def test_best_of_is_called_sft() -> None:
    with pytest.warns(FutureWarning, match="'best-of' is now called 'sft'"):
        assert load("best-of") == prefopt.SFT() == load("sft")

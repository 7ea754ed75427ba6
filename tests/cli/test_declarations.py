"""A named trainer is declared in one place: its command, its public names and what compare knows follow from it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import prefopt
import prefopt.training
from prefopt.cli.commands import all_commands
from prefopt.compare.plan.method_spec import make_method_spec, trainer_of
from prefopt.training.declarations import DECLARATIONS, Declaration, named_trainers, public_names
from tests.helpers.commands import error_of, run

MODULE = """
from dataclasses import dataclass

from prefopt import Loss, Objective, PreferenceConfig
from prefopt.objectives import Term
from prefopt.training.trainers import NamedTrainer
from prefopt.utils.options import option


@dataclass(kw_only=True)
class MineArguments:
    sharpness: float = option(2.0, "How sharp the loss is. Nothing else depends on it.")


@dataclass(kw_only=True)
class Mine(MineArguments, Objective):
    responses = 2

    def loss(self, out, batch):
        return Loss({"mine": Term(-self.sharpness * out.logps[:, 0].sum(), "prompts")})


@dataclass
class MineConfig(MineArguments, PreferenceConfig):
    pass


class MineTrainer(NamedTrainer):
    config, objective_type = MineConfig, Mine


NAMES = {"mine": Mine()}
"""
MINE = Declaration(
    command="mine",
    summary="A method of somebody's own.",
    trainer="my_trainers:MineTrainer",
    config="my_trainers:MineConfig",
    settings=("sharpness",),
)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The trainer's class, declared."""
    (tmp_path / "my_trainers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(DECLARATIONS, "mine", MINE)
    yield MINE.load()
    sys.modules.pop("my_trainers")


def test_a_declared_trainer_is_a_command(mine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "  mine               A method of somebody's own." in capsys.readouterr().out
    assert run("mine", "--help") == 0
    page = capsys.readouterr().out
    assert "Mine:\n  --sharpness X               How sharp the loss is. [2.0]" in page and "--ddp_backend" not in page
    assert run("mine", "--help-all") == 0
    assert "Nothing else depends on it." in " ".join(capsys.readouterr().out.split())
    assert "did you mean --sharpness" in error_of(capsys, "mine", "--sharpnes", "1")
    assert "did you mean mine?" in error_of(capsys, "mien")


def test_a_declared_trainer_is_public(mine: Any) -> None:
    for package in (prefopt, prefopt.training):
        assert package.MineTrainer is mine and package.MineConfig is mine.config
    with pytest.raises(AttributeError):
        _ = prefopt.training.MineTrainre


def test_a_declared_trainer_is_comparable(mine: Any) -> None:
    assert mine in named_trainers() and trainer_of(mine.objective_type()) is mine
    spec = make_method_spec("mine", {"method": "my_trainers:mine", "sharpness": 3.0}, {"max_length": 9})
    assert spec.trainer is mine and spec.arguments == {"sharpness": 3.0, "max_length": 9}


def test_what_type_checkers_read_is_what_is_declared() -> None:
    for package in (prefopt, prefopt.training):
        stub = Path(str(package.__file__)).with_suffix(".pyi")
        nodes = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
        published = {name.asname for node in nodes for name in node.names}
        others = {"PreferenceTrainer", "PreferenceConfig", "DatasetMixtureConfig", "ModelConfig"}
        assert {name for name in published if str(name).endswith(("Trainer", "Config"))} - others == set(public_names())


def test_every_declaration_is_right() -> None:
    for name, declaration in DECLARATIONS.items():
        trainer = declaration.load()
        assert declaration.command == name and list(declaration.public.values()) == [
            f"{trainer.config.__module__}:{trainer.config.__name__}",
            f"{trainer.__module__}:{trainer.__name__}",
        ]
        assert all_commands()[name].trainer is declaration

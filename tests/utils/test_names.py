"""What somebody may have meant, what they wrote outside of prefopt, and what a setting's value is read as."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from prefopt.training.setting_names import ALIASES, ELSEWHERE
from prefopt.training.trl_settings import SETTINGS
from prefopt.utils.extensions import NoSuchModule, load_named
from prefopt.utils.names import did_you_mean, hint, nearest
from prefopt.utils.options import changed, option, worded
from prefopt.utils.settings import NumberLoader, SettingsError, built, read, read_yaml


def test_the_nearest_name() -> None:
    known = ["learning_rate", "lora_r", "per_device_train_batch_size", "per_device_eval_batch_size", "best-of-n"]
    assert nearest("lr", known, {"lr": "learning_rate"}) == ["learning_rate"]
    assert nearest("lr", ["lora_r"], {"lr": "learning_rate"}) == []  # an alias of what does not exist here
    assert nearest("Learning-Rate", known) == ["learning_rate"] and nearest("best_of_n", known) == ["best-of-n"]
    assert nearest("batch_size", known) == ["per_device_train_batch_size", "per_device_eval_batch_size"]
    assert nearest("zzz", known) == [] and nearest("", known) == []
    assert did_you_mean("lora_rr", known, prefix="--") == "did you mean --lora_r?"
    assert hint("zzz", ["a", "b"]) == "; known are a, b" and hint("lora_rr", known) == "; did you mean lora_r?"


def test_every_alias_stands_for_a_setting() -> None:
    from prefopt import training
    from prefopt.training.arguments import ScorerArguments
    from prefopt.training.declarations import named_trainers

    kinds = [training.ModelConfig, training.ScriptArguments, ScorerArguments, *(t.config for t in named_trainers())]
    settings = {field.name for kind in kinds for field in fields(kind)}
    assert set(ALIASES.values()) <= settings
    assert not settings & {*ALIASES}, "a setting's own name needs no hint"
    assert settings & {*ELSEWHERE} == settings & {*SETTINGS}, "only those of TRL that are refused have one"


def test_an_object_in_a_module_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(Path.cwd()))])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_things.py").write_text("class Box:\n    lid = 3\n\ndef scorer(): ...\n\nimport json\n")
    (tmp_path / "my_broken_things.py").write_text("import no_such_thing_at_all\n")
    assert load_named("my_own_things:Box.lid", "adapter") == 3
    for path, said in {
        "my_own_things:scoer": r"^adapter my_own_things:scoer: my_own_things has no scoer; did you mean scorer\? "
        "it has Box, scorer$",
        "my_own_things.py:scorer": "name the module, not its file: my_own_things:scorer",
        "my_own_things": "write it as module:name, such as my_module:my_name",
        "nowhere:scorer": f"cannot import nowhere from {tmp_path} or elsewhere: No module named 'nowhere'",
        "my_broken_things:scorer": "cannot import my_broken_things .*No module named 'no_such_thing_at_all'",
    }.items():
        with pytest.raises(ValueError, match=said):
            load_named(path, "adapter")
    with pytest.raises(NoSuchModule):
        load_named("nowhere:scorer", "adapter")


def test_a_setting_with_another_default_or_another_text() -> None:
    @dataclass
    class Base:
        size: int = option(1, "How many.", choices=[1, 2])
        names: list = option(list, "Which.")

    @dataclass
    class Other(Base):
        size: int = changed(Base, "size", 2)
        names: list = worded(Base, "names", "Which ones.")

    assert Other() == Other(2, []) and Other().names is not Other().names
    assert [field.metadata for field in fields(Other)] == [
        {"help": "How many.", "choices": [1, 2]},
        {"help": "Which ones."},
    ]


@dataclass
class Plan:
    seeds: tuple[int, ...]
    rate: float = 0.1
    given: Mapping[str, Any] | None = None


def test_a_mapping_becomes_a_dataclass() -> None:
    assert built(Plan, {"seeds": [1, 2], "rate": 1, "given": {"a": 1e-3}}, "plan") == Plan((1, 2), 1.0, {"a": 1e-3})
    for given, said in (
        ({"seed": [1]}, "plan: unknown key 'seed'; did you mean seeds"),
        ({}, "plan: 'seeds' is missing"),
        ({"seeds": [1], "given": 3}, "plan: given expects a mapping or none, not 3"),
        ({"seeds": [1], "rate": "high"}, "plan: rate expects a number, not 'high'"),
        ([1], "write one `name: value` per line"),
    ):
        with pytest.raises(SettingsError, match=said):
            built(Plan, given, "plan")
    with pytest.raises(ArgumentTypeError):
        read({"a": 1}, (int,))


def test_numbers_without_a_point(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("rate: 5e-7\nname: 12e4x\n")
    assert read_yaml(tmp_path / "a.yaml", NumberLoader)["rate"] == (5e-7, f"{tmp_path}/a.yaml:1")
    assert read_yaml(tmp_path / "a.yaml")["rate"][0] == "5e-7"
    with pytest.raises(SettingsError, match=r"b\.yaml: no such file: check the path, which is taken from"):
        read_yaml(tmp_path / "b.yaml")

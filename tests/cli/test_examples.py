"""The example scripts run as they stand, in the small world, and come with the package."""

from __future__ import annotations

import runpy
import sys
import tomllib
from pathlib import Path

import pytest

from prefopt.cli import examples
from tests.helpers.commands import error_of, run

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (ROOT / "examples/scripts").glob("*.py") if path.name != "common.py")
IN_PROCESSES = ("compare", "custom_judge", "rounds")
"""Those that start processes of their own, which makes them slow."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all are run: they share the small world that the first makes."""
    return tmp_path_factory.mktemp("examples")


def scripts() -> list:
    return [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in IN_PROCESSES else [])
        for path in SCRIPTS
    ]


@pytest.mark.parametrize("path", scripts())
def test_an_example_runs(
    path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", [str(path), "--tiny"])
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(path.parent))  # for the processes that compare starts
    runpy.run_path(str(path), run_name="__main__")
    out = place / "out"
    said = capsys.readouterr().out
    if path.stem in IN_PROCESSES:
        assert list(out.glob("*/report/report.html")) or "failures: none" in said
    elif path.stem == "custom_scorer":
        assert said.count("→") == 2
    else:
        assert "What now" in said and "training is done" in said
        assert any((folder / "prefopt.json").is_file() for folder in out.glob("*"))
    for name in ("common", path.stem):
        sys.modules.pop(name, None)


def test_every_method_and_everything_of_ones_own_has_an_example() -> None:
    assert {path.stem for path in SCRIPTS} == {
        *("dpo", "reward_model", "rejection_sampling", "rrhf", "ppo_max", "compare", "rounds", "chinese_rm_static"),
        *("custom_objective", "custom_adapter", "custom_scorer", "custom_judge"),
    }
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        assert f"python {path.name} --tiny" in text and len(text.splitlines()) <= 50


def test_examples_are_listed_and_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("examples") == 0
    listed = capsys.readouterr().out
    assert "scripts/dpo.py" in listed and "DPO on pairs of answers, with LoRA" in listed
    assert "rounds/laptop.yaml" in listed and "accelerate/fsdp2.yaml" in listed
    assert run("examples", "--to", tmp_path / "mine") == 0
    copied = {str(path.relative_to(tmp_path / "mine")) for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert copied == {str(path.relative_to(ROOT / "examples")) for path in examples.examples(ROOT / "examples")}
    assert "scripts/common.py" in copied
    assert "is there already: name another folder" in error_of(capsys, "examples", "--to", tmp_path / "mine")


def test_a_wheel_has_all_that_is_copied() -> None:
    """`setup.py` ships the folders as packages, and pyproject.toml names the files in them that are no code."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    shipped = (ROOT / "setup.py").read_text("utf-8")
    for path in examples.examples(ROOT / "examples"):
        part = ".".join(path.relative_to(ROOT / "examples").parts[:-1])
        assert not part or f'".{part}"' in shipped
        assert path.suffix == ".py" or "*.yaml" in data[f"prefopt.examples{'.' * bool(part)}{part}"]


def test_an_installation_without_examples_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(examples, "PACKAGE", tmp_path / "prefopt")
    assert "this installation has no examples" in error_of(capsys, "examples")

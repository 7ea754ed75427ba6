"""The rooms of `compare` and the testbed: one uses of another what that one publishes; old names go on working."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.imports import MODULES, imports

ROOMS = ("compare.plan", "compare.measure", "compare.run", "compare.statistics", "compare.report", "testbed")
PUBLIC_MODULES = {"testbed.model", "testbed.measure", "testbed.dialogues"}
"""Modules that are published themselves, as their package must not load what they need."""
ROOT = Path(__file__).parent.parent.parent


def room_of(module: str) -> str | None:
    return next((room for room in ROOMS if module == room or module.startswith(f"{room}.")), None)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_room_is_entered_by_its_door(module: str) -> None:
    used = {other for other in imports(MODULES[module]) if (room := room_of(other)) and room != room_of(module)}
    assert used - PUBLIC_MODULES <= set(ROOMS), f"{module} imports what is private to a room: publish it in its .pyi"


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_that_a_room_publishes_is_there(room: str) -> None:
    package = importlib.import_module(f"prefopt.{room}")
    assert package.__all__
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_examples_and_benchmarks_use_what_is_published() -> None:
    for path in (*(ROOT / "examples").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            inner = module.removeprefix("prefopt.")
            assert room_of(inner) in (None, inner) or inner in PUBLIC_MODULES, f"{path}: {module}"


@pytest.mark.parametrize(("old", "new"), [("draw_prompts", "sample_prompts"), ("draw_prompt", "sample_prompt")])
def test_old_names_of_the_testbed_go_on_working(old: str, new: str) -> None:
    from prefopt import testbed

    with pytest.warns(FutureWarning, match=f"prefopt.testbed.{old} is now {new}") as warned:
        assert getattr(testbed, old) is getattr(testbed, new)
    assert warned[0].filename == __file__


def test_a_plan_is_what_read_plan_returns_and_a_design_is_of_statistics() -> None:
    from prefopt.compare import Design, Plan, read_plan
    from prefopt.compare.statistics import Design as StatisticalDesign

    assert type(read_plan(ROOT / "examples/quickstart.yaml")) is Plan and Design is StatisticalDesign


def test_importing_statistics_loads_neither_torch_nor_pandas() -> None:
    code = "import sys; from prefopt.compare import who_beats_whom; print({'torch', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

"""The page on the architecture is true: its modules are there, and its picture is of the imports."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.architecture_picture import FLOORS, picture
from tests.helpers.imports import FILES, PACKAGE, imports

DOCS = Path(__file__).parent.parent / "docs"
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room, _ in rooms}
NOT_ROOMS = {"__init__", "__main__", "_moved"}


@pytest.mark.parametrize("name", ["architecture.md", "architecture.zh.md", "performance.md", "performance.zh.md"])
def test_every_module_that_is_named_exists(name: str) -> None:
    named = set(re.findall(r"`(prefopt(?:\.\w+)+)`", (DOCS / name).read_text("utf-8")))
    modules = {path.rsplit(".", 1)[0] if path.rsplit(".", 1)[1][0].isupper() else path for path in named}
    modules -= {"prefopt.generation.sample", "prefopt.models.merge_adapter", "prefopt.best_of_n"}
    assert modules and all(find_spec(module) is not None for module in modules)


def test_the_picture_has_every_room_above_what_it_imports() -> None:
    for path in FILES:
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in NOT_ROOMS:
            continue
        used = {name.split(".")[0] for name in imports(path)} - NOT_ROOMS
        assert room in FLOOR and used <= set(FLOOR), f"{path}: a room that the picture has not"
        assert all(FLOOR[other] >= FLOOR[room] for other in used), f"{path} imports from above"


def test_the_picture_is_the_one_that_the_script_draws() -> None:
    assert (DOCS / "images" / "architecture.svg").read_text("utf-8") == picture()


def test_every_package_stands_in_the_table() -> None:
    text = (DOCS / "architecture.md").read_text("utf-8")
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {package for package in packages if f"prefopt.{package}" not in text} == set()

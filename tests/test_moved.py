"""Every module path of before 0.2 still imports: the very object of the new path, with one warning that names it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prefopt._moved import MOVED, ROLLOUT

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "prefopt"
ABOUT_OLD_NAMES = {"test_moved.py", "test_renamed.py"}

PROGRAM = """
import importlib, json, sys, warnings

import prefopt
from prefopt._moved import MOVED, ROLLOUT


def warned(act):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FutureWarning)
        value = act()
    return value, [str(one.message) for one in caught if issubclass(one.category, FutureWarning)]


found = {"modules": {}, "names": {}}
rollout, found["package"] = warned(lambda: importlib.import_module("prefopt.rollout"))
for old, new in MOVED.items():
    old_module, said = warned(lambda: importlib.import_module(f"prefopt.{old}"))
    _, again = warned(lambda: importlib.import_module(f"prefopt.{old}"))
    same = old_module is importlib.import_module(f"prefopt.{new}") is sys.modules[f"prefopt.{old}"]
    found["modules"][old] = {"same": same, "said": said, "again": again}
for name, room in ROLLOUT.items():  # after `import prefopt.rollout.sample` and all others
    there = getattr(importlib.import_module(f"prefopt.{room}"), name)
    found["names"][name] = getattr(rollout, name) is there
for name in importlib.import_module("prefopt.candidates").__all__:
    found["names"][name] = getattr(rollout, name) is getattr(prefopt.candidates, name)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """In a process of its own: an old path that has been imported is known from then on, and warns no more."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("old", MOVED)
def test_an_old_path_is_the_module_of_the_new_one(old: str, found: dict[str, Any]) -> None:
    assert found["modules"][old]["same"]


@pytest.mark.parametrize("old", MOVED)
def test_the_first_import_by_an_old_path_warns_once_and_names_the_new_one(old: str, found: dict[str, Any]) -> None:
    (said,) = found["modules"][old]["said"]
    assert f"prefopt.{old} is now prefopt.{MOVED[old]};" in said and found["modules"][old]["again"] == []


def test_the_old_package_of_rollouts_warns_once_and_names_the_packages_it_became(found: dict[str, Any]) -> None:
    (said,) = found["package"]
    for new in ("generation", "scoring", "candidates"):
        assert f"prefopt.{new}" in said


@pytest.mark.parametrize("name", ROLLOUT)
def test_a_name_of_the_old_package_is_that_of_the_new_one(name: str, found: dict[str, Any]) -> None:
    assert found["names"][name]


def test_names_of_candidates_are_those_of_the_old_package_too(found: dict[str, Any]) -> None:
    assert len(found["names"]) > len(ROLLOUT) and all(found["names"].values())


@pytest.mark.parametrize("first", ["import prefopt.rollout.sample", "import prefopt.rollout.best_of", "import prefopt"])
def test_a_function_is_not_hidden_by_the_module_that_had_its_name(first: str) -> None:
    code = f"{first}\nfrom prefopt.rollout import sample\nprint(type(sample).__name__, sample.__module__)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["function", "prefopt.generation.sampling"]


def test_every_new_path_is_there_and_no_old_one_is() -> None:
    """Or the real module would be imported in the place of the moved one."""

    def there(name: str) -> bool:
        path = PACKAGE.joinpath(*name.split("."))
        return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()

    assert {new for new in MOVED.values() if not there(new)} == set()
    assert {old for old in (*MOVED, "rollout") if there(old)} == set()


def test_no_test_speaks_of_an_old_path() -> None:
    """A patch of an old path would be one of the new module, until the old paths go and the patch does nothing."""
    names = "|".join(re.escape(name) for name in sorted((*MOVED, "rollout"), key=len, reverse=True))
    old = re.compile(rf"\bprefopt\.({names})\b(?!\.py)")
    others = [path for path in sorted(TESTS.rglob("*.py")) if path.name not in ABOUT_OLD_NAMES]
    assert {path.name: found for path in others if (found := old.findall(path.read_text(encoding="utf-8")))} == {}

"""What the package declares: all packages that it imports, its types, and what to install where an extra is missing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from prefopt.utils.extras import MissingExtra, install, require

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "prefopt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
MAY_NEED = {
    "models/weights.py": {"deepspeed"},
    "compare": {"compare"},
    "rounds": {"compare"},
    "candidates/plot.py": {"report"},
    "labelling": {"labels"},
    "training/ppo/plot.py": {"report"},
    "data/reading/sources.py": {"modelscope"},
    "generation/_vllm_program.py": {"vllm"},
    "generation/_vllm_server.py": {"http"},
    "scoring/http.py": {"http"},
    "utils/http.py": {"http"},
}
"""Part of the package -> the extras that it may import from; all else is imported from the dependencies."""


def names(requirements: list[str]) -> set[str]:
    """The packages that requirements name, those of prefopt's own extras among them."""
    packages = set()
    for requirement in requirements:
        name = plain(re.match(r"[\w.-]+", requirement)[0])  # type: ignore[index]
        if name != "prefopt":
            packages.add(name)
        for extra in re.findall(r"\w+", requirement.partition("[")[2].partition("]")[0]) if name == "prefopt" else ():
            packages |= names(EXTRAS[extra])
    return packages


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(path: Path) -> set[str]:
    """The packages that a file imports, by the name under which they are installed."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add((node.module or "").partition(".")[0])
    installed = packages_distributions()
    others = modules - set(sys.stdlib_module_names) - {"prefopt"}
    return {plain(installed.get(module, [module])[0]) for module in others}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_imported_package_is_declared(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    extras = {extra for part, needed in MAY_NEED.items() if place.startswith(part) for extra in needed}
    declared = names(PROJECT["dependencies"]).union(*(names(EXTRAS[extra]) for extra in extras))
    assert imported(path) <= declared


@pytest.mark.parametrize("room", ["measure", "run", "report"])
def test_a_room_of_compare_checks_what_it_imports_from_the_extra(room: str) -> None:
    folder = PACKAGE / "compare" / room
    needed = set.union(*(imported(path) for path in folder.rglob("*.py"))) - names(PROJECT["dependencies"])
    checked = re.search(r'require\("compare", \(([^)]*)\)', (folder / "__init__.py").read_text("utf-8"))
    assert checked and set(re.findall(r"\w+", checked[1])) == needed - {"matplotlib"}  # without which there is a report


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    code = "import sys; sys.modules['pandas'] = None; from prefopt.compare import compare"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "MissingExtra: prefopt.compare needs pandas: pip install 'prefopt[compare]'" in done.stderr


def test_statistics_need_no_extra() -> None:
    missing = names(EXTRAS["compare"]) - names(PROJECT["dependencies"])
    code = f"import sys; sys.modules.update(dict.fromkeys({sorted(missing)!r})); from prefopt.compare import holm"
    done = subprocess.run([sys.executable, "-c", f"{code}; print(holm([0.01, 0.04]))"], capture_output=True, text=True)
    assert missing and done.stdout.strip() == "[0.02, 0.04]", done.stderr


def test_all_missing_packages_are_named() -> None:
    require("compare", ("json",), "this")
    with pytest.raises(
        MissingExtra, match="this needs no_such_one and no_such_two: pip install 'prefopt\\[compare\\]'"
    ):
        require("compare", ("no_such_one", "json", "no_such_two"), "this")


def test_every_extra_that_is_named_is_declared() -> None:
    texts = [*PACKAGE.rglob("*.py"), *ROOT.glob("README*.md"), ROOT / "Makefile", ROOT / "pyproject.toml"]
    named = {extra for path in texts for extra in re.findall(r"prefopt\[(\w+)\]", path.read_text("utf-8"))}
    assert named <= set(EXTRAS) and {"compare", "zh", "vllm"} <= named
    assert install("compare") == "pip install 'prefopt[compare]'"


def test_types_are_published() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    assert (PACKAGE / "py.typed").is_file() and "py.typed" in data["*"] and "*.pyi" in data["*"]

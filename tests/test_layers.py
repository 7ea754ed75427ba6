"""Imports point down only, and the maths needs torch alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.imports import FILES, MODULES, PACKAGE, imports

LAYERS = [
    {"utils", "batch", "grades"},
    {"objectives", "data", "tasks", "doctor"},
    {"models"},
    {"generation"},
    {"scoring"},
    {"candidates"},
    {"labelling", "testbed", "training"},
    {"compare"},
    {"rounds"},
    {"cli"},
    {"__init__", "__main__", "_moved"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of names that reach one another along the arrows."""
    reach = {name: set(to) for name, to in arrows.items()}
    for middle in arrows:
        for name in arrows:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    found = {frozenset(other for other in arrows if other in reach[name] and name in reach[other]) for name in arrows}
    return sorted(sorted(group) for group in found if group)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    assert room in LEVEL, f"{room} is a new room: give it a layer here"
    above = {name for name in imports(path) if LEVEL[name.split(".")[0]] > LEVEL[room]}
    assert not above, f"{path} imports from above it: {sorted(above)}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Nor does a type checker: what only it reads, and what a function imports, counts too."""
    assert circles({name: imports(path) - {name} for name, path in MODULES.items()}) == []


def test_no_room_imports_itself_by_way_of_others() -> None:
    """The rooms of `compare` are rooms too; what a package publishes counts as its own."""

    def room(name: str) -> str:
        parts = name.split(".")
        return ".".join(parts[:2]) if parts[0] == "compare" and len(parts) > 1 else parts[0]

    arrows: dict[str, set[str]] = {room(name): set() for name in MODULES}
    for name, path in MODULES.items():
        arrows[room(name)] |= {room(other) for other in imports(path)} - {room(name)}
    assert circles(arrows) == []


def test_a_circle_is_found() -> None:
    """The check itself: one of three, and one of two beside it."""
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": {"d"}, "f": {"d"}}
    assert circles(arrows) == [["a", "b", "c"], ["d", "e"]]


def test_few_modules_stand_at_the_top() -> None:
    assert sorted(path.stem for path in PACKAGE.glob("*.py")) == ["__init__", "__main__", "_moved", "batch", "grades"]


def test_no_package_publishes_a_name_that_one_of_its_modules_has() -> None:
    """Or `import prefopt.generation.sample` would give a function."""
    for path in PACKAGE.rglob("__init__.pyi"):
        published = {name.asname for node in ast.parse(path.read_text()).body for name in getattr(node, "names", [])}
        modules = {other.stem for other in path.parent.glob("*.py")} | {
            d.name for d in path.parent.iterdir() if d.is_dir()
        }
        assert published and not published & modules, path


def test_objectives_know_tensors_only() -> None:
    found = {name.split(".")[0] for path in FILES if room_of(path) == "objectives" for name in imports(path)}
    assert found == {"objectives", "batch", "utils", "grades"}
    without_torch = {"utils.extensions", "utils.names", "utils.options", "utils.renamed"}
    assert {name for path in FILES if room_of(path) == "objectives" for name in imports(path) if "utils" in name} == {
        "utils.tensors",
        *without_torch,
    }


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("prefopt", ["torch", "transformers", "datasets"]),
        ("prefopt.utils.extensions, prefopt.utils.names, prefopt.utils.options", ["torch", "transformers"]),
        ("prefopt.objectives.dpo", ["transformers", "datasets", "accelerate", "peft"]),
        ("prefopt.data", ["torch", "transformers", "datasets"]),
        ("prefopt.testbed", ["torch", "transformers"]),
        ("prefopt.compare", ["torch", "transformers", "datasets"]),
    ],
)
def test_importing_a_room_loads_no_more_than_it_needs(module: str, forbidden: list[str]) -> None:
    code = f"import sys, {module}; print(*[name for name in {forbidden!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_public_name_resolves() -> None:
    import prefopt

    for name in prefopt.__all__:
        assert getattr(prefopt, name) is not None
    with pytest.raises(AttributeError, match="DPOTrainer"):
        _ = prefopt.DPOtrainer


def test_only_forward_calls_a_model_and_only_sample_generates() -> None:
    """Where a thing lives is a promise: `.generate(` in the sampler, and in the program that vLLM runs in; label -100
    where others' token ids come in."""
    sources = {path: path.read_text(encoding="utf-8") for path in FILES}
    assert {room_of(p) + "/" + p.name for p, text in sources.items() if ".generate(" in text} == {
        "generation/sampling.py",
        "generation/_vllm_program.py",
    }
    minus_100 = {p.name for p, text in sources.items() if re.search(r"[=(, ]-100\b", text)}
    assert minus_100 == {"token_columns.py", "data_formats.py"}  # which says so in the docs
    without = {p.name for p, text in sources.items() if "disable_adapter()" in text}
    assert without == {"reference.py", "new_adapter.py"}  # the second tries whether a new adapter changes the model


def test_no_test_file_imports_another() -> None:
    """What several test files need stands in `tests.helpers`, and fixtures in a `conftest.py`, which pytest finds."""
    tests = Path(__file__).parent
    for path in sorted(tests.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                names += [".".join(filter(None, (node.module, name.name))) for name in node.names]
        ours = [name.split(".") for name in names if name.split(".")[0] == "tests"]
        others = [parts for parts in ours if any(part.startswith(("test_", "conftest")) for part in parts)]
        assert not others, f"{path.relative_to(tests)} imports {others}: move what it needs to tests/helpers"


@pytest.mark.parametrize("room", ["generation", "scoring", "candidates"])
def test_a_module_is_public_exactly_when_it_is_used_outside_its_package(room: str) -> None:
    """With an underscore its own package alone imports it; without one, others do or the package publishes of it."""
    stub = ast.parse((PACKAGE / room / "__init__.pyi").read_text(encoding="utf-8"))
    published = {node.module for node in stub.body if isinstance(node, ast.ImportFrom)}
    outside = {name for path in FILES if room_of(path) != room for name in imports(path)}
    for path in sorted((PACKAGE / room).glob("*.py")):
        used = path.stem in published or f"{room}.{path.stem}" in outside
        if path.stem.startswith("_") and path.stem != "__init__":
            assert f"{room}.{path.stem}" not in outside, f"{path} is private, and another package imports it"
        elif path.stem != "__init__":
            assert used, f"only {room} uses {path}: begin its name with an underscore, or publish something of it"

"""Imports point down only, and the maths needs torch alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "prefopt"
LAYERS = [
    {"tensors", "batch", "grades", "sampling", "tally", "__version__"},
    {"objectives", "data", "checkpoint"},
    {"models", "meter", "coupling", "guard"},
    {"rollout"},
    {"testbed"},
    {"config", "setup", "loading", "precompute", "evaluation", "persistence", "iterations", "drawing", "trainer"}
    | {"optimization", "experience", "on_policy"},
    {"trainers", "arguments"},
    {"compare"},
    {"cli"},
    {"__init__", "__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Rooms of prefopt that a file imports when it runs; what only a type checker reads does not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checked = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    skipped = {id(inner) for node in checked for inner in ast.walk(node)}
    parents = path.relative_to(PACKAGE.parent).with_suffix("").parts
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(parents[: -node.level]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" if module == "prefopt" else module for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("prefopt."))


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    assert room in LEVEL, f"{room} is a new room: give it a layer here"
    above = {name for name in imports(path) if LEVEL.get(name, 99) > LEVEL[room]}
    assert not above, f"{path} imports from above it: {sorted(above)}"


def test_objectives_know_tensors_only() -> None:
    found = {name for path in FILES if room_of(path) == "objectives" for name in imports(path)}
    assert found == {"objectives", "batch", "tensors", "grades", "sampling"}


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("prefopt", ["torch", "transformers", "datasets"]),
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
    """Where a thing lives is a promise: `.generate(` in the sampler, label -100 nowhere."""
    sources = {path: path.read_text(encoding="utf-8") for path in FILES}
    assert {room_of(p) + "/" + p.name for p, text in sources.items() if ".generate(" in text} == {"rollout/sample.py"}
    assert [p for p, text in sources.items() if re.search(r"[=(, ]-100\b", text)] == []
    assert {p.name for p, text in sources.items() if "disable_adapter()" in text} == {"reference.py"}

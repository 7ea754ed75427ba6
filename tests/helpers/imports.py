"""Which modules of prefopt a file imports."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent.parent / "prefopt"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


def imports(path: Path) -> set[str]:
    """The modules of prefopt that a file imports: at its top, inside a function, or for the type checker alone."""
    parents = path.relative_to(PACKAGE).with_suffix("").parts
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {name.name.removeprefix("prefopt.") for name in node.names if name.name.startswith("prefopt.")}
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "prefopt"):
            base = parents[: len(parents) - node.level] if node.level else ()
            module = ".".join([*base, *([(node.module or "").removeprefix("prefopt.")] if node.module else [])])
            for name in node.names:
                inner = f"{module}.{name.name}".removeprefix(".")
                modules.add(inner if inner in MODULES else module)
    return {name for name in modules if name in MODULES and name != "__init__"}

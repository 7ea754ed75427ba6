"""`prefopt examples`: short scripts to begin from, which the package brings along; `--to` copies them."""

from __future__ import annotations

import argparse
import ast
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from .command import Command

ABOUT = """\
List the examples, or copy them: scripts of about 20 lines for each method and each thing of your own (an objective, a
format, a scorer, a judge), plans of comparisons and rounds, and configs of accelerate.
"""
EXAMPLE = """\
  prefopt examples
  prefopt examples --to my_examples
  python my_examples/scripts/dpo.py --tiny       # a minute, without a download
"""
PACKAGE = Path(__file__).parents[1]
KINDS = ("scripts/*.py", "*.yaml", "rounds/*.yaml", "accelerate/*.yaml")


def main(command: Command, prog: str, argv: Sequence[str]) -> int:
    """Parse, list or copy; returns the exit code."""
    args = _parser(prog).parse_args(list(argv))
    source = folder()
    if args.to is not None:
        return _copied(source, Path(args.to).expanduser(), prog)
    names = {str(path.relative_to(source)): about(path) for path in examples(source)}
    width = max(map(len, names))
    for name, text in names.items():
        print(f"{name:<{width}}  {text}")
    print(f"\n`{prog} --to FOLDER` copies them; `python FOLDER/scripts/dpo.py --tiny` runs one")
    return 0


def folder() -> Path:
    """Where the examples are: in the package that was installed, or beside it in a source tree.

    Raises:
        ValueError: in neither.
    """
    for place in (PACKAGE / "examples", PACKAGE.parent / "examples"):
        if (place / "scripts").is_dir():
            return place
    raise ValueError("this installation has no examples: install prefopt from a wheel, or look into its repository")


def examples(source: Path) -> Iterator[Path]:
    """The files that are worth a copy, in the order of their names."""
    for kind in KINDS:
        yield from sorted(path for path in source.glob(kind) if path.name != "__init__.py")


def about(path: Path) -> str:
    """The first line of what a file says of itself."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
    first = text.splitlines()[0]
    return first.lstrip("# ") if first.startswith("#") else ""


def _copied(source: Path, target: Path, prog: str) -> int:
    paths = list(examples(source))
    there = [str(target / path.relative_to(source)) for path in paths if (target / path.relative_to(source)).exists()]
    if there:
        raise ValueError(f"--to {target}: {there[0]} is there already: name another folder, or move it away")
    for path in paths:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    print(f"{target}: {len(paths)} files; try `python {target}/scripts/dpo.py --tiny`")
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=ABOUT, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", metavar="FOLDER", help="copy all of them into this folder")
    return parser

"""What every command says in the same way: errors, warnings and notes, from the first of several processes alone."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from ..utils.visible import VisibleFormatter, bounded, visible

LONGEST = 8000
"""Characters of the longest message: what a file holds must not drown what is wrong with it."""


def is_first() -> bool:
    """Whether this is the one of several processes that speaks."""
    return os.environ.get("RANK", "0") == "0"


def fail(prog: str, message: str) -> int:
    """Say what went wrong and return exit code 2; of several processes, the others say which one they are."""
    prefix = "" if is_first() else f"[rank {os.environ['RANK']}] "
    print(f"{prefix}{prog}: error: {said(message)}", file=sys.stderr)
    return 2


def said(message: object) -> str:
    """A message as a terminal may show it."""
    return bounded(visible(str(message)), LONGEST)


def set_up_logging() -> None:
    """Show prefopt's own notes, from the first process only; what libraries say stays as they set it."""
    handler = logging.StreamHandler()
    handler.setFormatter(VisibleFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("prefopt").setLevel(logging.INFO if is_first() else logging.ERROR)
    # Deprecations inside libraries are for their authors; those of arguments were shown while parsing.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|accelerate|torch)\b")


def show_warning(message: Warning | str, *where: object, **more: object) -> None:
    """A warning as one line, in the place of `warnings.showwarning`."""
    if is_first():
        print(f"warning: {said(message)}", file=sys.stderr)

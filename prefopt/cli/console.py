"""What every command says in the same way: errors, warnings and notes, from the first of several processes alone."""

from __future__ import annotations

import logging
import os
import select
import sys
import warnings

from ..utils.visible import VisibleFormatter, bounded, visible

LONGEST = 8000
"""Characters of the longest message: what a file holds must not drown what is wrong with it."""

UNREAD = 141
"""The status of a program whose output nobody reads any more: 128 + SIGPIPE."""


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


def quiet_libraries() -> None:
    """No bar for each file of weights that is read or written: it takes seconds, and would break a training's own."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def pace_bars() -> None:
    """In a log, which keeps each state of a bar, show one every 30 seconds, of what takes longer; call it first."""
    if not sys.stderr.isatty():
        for name in ("TQDM_DELAY", "TQDM_MININTERVAL", "TQDM_MAXINTERVAL"):  # tqdm's own defaults
            os.environ.setdefault(name, "30")


def show_warning(message: Warning | str, *where: object, **more: object) -> None:
    """A warning as one line, in the place of `warnings.showwarning`."""
    if is_first():
        print(f"warning: {said(message)}", file=sys.stderr)


def unread() -> bool:
    """Whether standard output is a pipe whose reader has gone, as `head` goes when it has its lines."""
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # no stream of the operating system's
        return False
    polled = select.poll()
    polled.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in polled.poll(0))


def drop_output() -> None:
    """Let what was printed and cannot be delivered go nowhere, so that the interpreter does not complain at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)

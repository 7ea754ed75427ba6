"""Where the `prefopt` program begins: finds the command, and turns what a user can mend into one clear message."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from .. import __version__
from ..utils import secrets
from ..utils.names import did_you_mean
from ..utils.settings import unreadable
from ..utils.signals import Interrupted, listening, name_of, status_of
from ..utils.visible import VisibleFormatter
from .command import HELP, HELP_ALL, Command
from .commands import all_commands
from .console import UNREAD, drop_output, fail, is_first, pace_bars, show_warning, unread
from .help_page import kept_page


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a check found something, 2 an error.

    Of a command that was interrupted it is 143 after SIGTERM, 129 after SIGHUP, 130 after Ctrl-C, and 141 where nobody
    reads what it prints any more, as after `| head`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    secrets.remember_words(words)
    if argv is None:
        pace_bars()
        secrets.guard_streams()
    try:
        try:
            return _main(words)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not unread():
            raise
        drop_output()
        return UNREAD


def _main(words: Sequence[str]) -> int:
    if not words or words[0] in HELP | {"help"}:
        print(overview())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"prefopt {__version__}")
        return 0
    name, rest = words[0], words[1:]
    commands = all_commands()
    if name not in commands:
        return fail("prefopt", f"unknown command {name!r}; {did_you_mean(name, commands, most=1) or _known(commands)}")
    if logging.lastResort is not None:  # which shows warnings where a command sets up no log
        logging.lastResort.setFormatter(VisibleFormatter())
    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        return _guarded(commands[name], name, rest)


def overview() -> str:
    """What `prefopt --help` prints."""
    commands = all_commands()
    width = max(map(len, commands))
    return "\n".join(
        [
            "usage: prefopt COMMAND [option ...]",
            "",
            "Preference optimization of language models.",
            "",
            *(f"  {name:<{width}} {command.summary}" for name, command in commands.items()),
            "",
            "  prefopt COMMAND --help   what a command takes",
            "  prefopt --version        the version",
            "",
            "Example, on several GPUs with `torchrun --nproc_per_node 4 -m` before it:",
            "",
            "  prefopt dpo --model_name_or_path Qwen/Qwen3-0.6B \\",
            "      --dataset_name pairs.jsonl --output_dir out --use_peft",
        ]
    )


def _known(commands: dict[str, Command]) -> str:
    return f"known are {', '.join(commands)}"


def _guarded(command: Command, name: str, argv: Sequence[str]) -> int:
    """Run it; what a user can mend becomes one message, everything else keeps its traceback."""
    prog = f"prefopt {name}"
    try:
        with listening():
            return _run(command, name, argv)
    except (Interrupted, KeyboardInterrupt) as ending:
        return _interrupted(prog, command, ending)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        if isinstance(error, BrokenPipeError) and unread():
            if not (HELP | {HELP_ALL}) & set(argv):
                _left_unread(prog, command)
            raise
        if os.environ.get("PREFOPT_DEBUG") == "1":
            raise
        return fail(prog, _said(error))


def _left_unread(prog: str, command: Command) -> None:
    """Say of a command with something to lose why it ended."""
    if (command.goes_on or command.trainer) and is_first():
        how = "with --resume_from_checkpoint auto" if command.trainer else "again"
        print(f"{prog}: ended, as nobody reads what it prints; to go on, run it {how}", file=sys.stderr)


def _interrupted(prog: str, command: Command, ending: BaseException) -> int:
    """Say how to go on; returns the status of the signal that ended the command."""
    signum = ending.signum if isinstance(ending, Interrupted) else signal.SIGINT
    how = "; to go on, run the same command again" if command.goes_on or command.trainer else ""
    said = getattr(ending, "message", "") or f"{prog}: interrupted by {name_of(signum)}{how}"
    if is_first():
        with suppress(OSError):  # the terminal may have hung up
            print(f"\n{said}", file=sys.stderr, flush=True)
    return status_of(signum)


def _run(command: Command, name: str, argv: Sequence[str]) -> int:
    prog = f"prefopt {name}"
    if command.tools:
        return _tool(command, prog, argv)
    if HELP & set(argv) and HELP_ALL not in argv and (page := kept_page(name)):
        print(page.text(), end="")
        return 0
    return import_module(command.module).main(command, prog, argv)


def _tool(command: Command, prog: str, argv: Sequence[str]) -> int:
    usage = f"usage: {prog} {'|'.join(command.tools)} [option ...]\n\n{command.summary}"
    if argv and argv[0] in command.tools:
        return import_module(command.tools[argv[0]]).main(list(argv[1:]))
    if argv and argv[0] in HELP | {"help"}:
        print(usage)
        return 0
    return fail(prog, f"unknown command {argv[0]!r}\n{usage}" if argv else f"a command is missing\n{usage}")


def _said(error: BaseException) -> str:
    """What a user is told of an error: of a file its name and what is wrong with it, else the error's own message."""
    if isinstance(error, OSError) and error.errno and isinstance(error.filename, str):
        return unreadable(error.filename, error)
    return str(error) if _is_ours(error) else f"{error}\n(PREFOPT_DEBUG=1 shows where this was raised)"


def _is_ours(error: BaseException) -> bool:
    """Raised by this library, whose messages say all there is to say."""
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    return place is not None and place.tb_frame.f_globals.get("__name__", "").startswith("prefopt.")

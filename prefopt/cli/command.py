"""What a command is: a summary, and the module that runs it by name. Imports none of these modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..training.declarations import Declaration

HELP = frozenset({"-h", "--help"})
HELP_ALL = "--help-all"


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        summary: what it does, in a sentence.
        module: the module whose `main(command, prog, argv)` runs it and returns the exit code.
        settings: its own settings that the short help page shows, the most important first.
        trainer: the named trainer that it runs, if it is one of those.
        tools: of a command of two words, the second word -> the module whose `main(argv)` runs it.
        goes_on: the same command again goes on where an interrupted one was.
    """

    summary: str
    module: str = ""
    settings: tuple[str, ...] = ()
    trainer: Declaration | None = None
    tools: Mapping[str, str] = field(default_factory=dict)
    goes_on: bool = False

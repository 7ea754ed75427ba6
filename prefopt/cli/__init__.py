"""The `prefopt` command: finds the command that was asked for and turns what goes wrong into one clear message.

Knows no command's arguments. Nothing heavy is imported here: `prefopt --help` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Protocol

from .. import __version__

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class Command(Protocol):
    """Something that can be run from the command line."""

    summary: str

    def run(self, prog: str, argv: Sequence[str]) -> int: ...


@dataclass(frozen=True)
class Method:
    """A training command: its trainer, by name, and what its rows are read for."""

    summary: str
    trainer: str
    purpose: str = "preferences"

    def run(self, prog: str, argv: Sequence[str]) -> int:
        from .train import main

        return main(self, prog, argv)


@dataclass(frozen=True)
class Tool:
    """Any other command: the module whose `main(argv)` runs it."""

    summary: str
    module: str

    def run(self, prog: str, argv: Sequence[str]) -> int:
        return import_module(self.module).main(list(argv))


COMMANDS: dict[str, Command] = {
    "sft": Method("Supervised fine-tuning on good answers.", "SFTTrainer", "sft"),
    "reward": Method("Train a reward model on pairs of answers.", "RewardTrainer"),
    "dpo": Method("Direct preference optimization, and every loss of its family.", "DPOTrainer"),
    "data": Tool("Check a dataset before training: prefopt data check FILE.", "prefopt.data.doctor"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a check found something, 2 an error, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"prefopt {__version__}")
        return 0
    return _run(words[0], words[1:])


def overview() -> str:
    """What `prefopt --help` prints."""
    commands = [f"  {name:<8} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: prefopt COMMAND [option ...]",
            "",
            "Preference optimization of language models.",
            "",
            *commands,
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


def _run(name: str, argv: Sequence[str]) -> int:
    prog = f"prefopt {name}"
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(COMMANDS)}"
        return _fail("prefopt", f"unknown command {name!r}; {hint}")
    quiet_imports()
    try:
        return COMMANDS[name].run(prog, argv)
    except KeyboardInterrupt:
        print(f"\n{prog}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("PREFOPT_DEBUG") == "1":
            raise
        return _fail(prog, f"{error}\n(PREFOPT_DEBUG=1 shows where this was raised)")


def quiet_imports() -> None:
    """Leave out a warning that a library gives as it is imported, about an optional speed-up of 4-bit models on CPUs."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def _fail(prog: str, message: str) -> int:
    """Say what went wrong; of several processes, each says which one it is."""
    rank = os.environ.get("RANK", "0")
    print(f"{prog}: error: {message}" if rank == "0" else f"[rank {rank}] {prog}: error: {message}", file=sys.stderr)
    return 2

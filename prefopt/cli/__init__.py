"""The `prefopt` command: finds the command that was asked for and turns what goes wrong into one clear message.

Knows no command's arguments. Nothing heavy is imported here: `prefopt --help` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module

from .. import __version__

HELP = ("-h", "--help", "help")
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


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
class Program:
    """A command of its own kind, and the module whose `main(program, prog, argv)` runs it."""

    summary: str
    title: str
    module: str

    def run(self, prog: str, argv: Sequence[str]) -> int:
        try:
            return import_module(self.module, __name__).main(self, prog, argv)
        except KeyboardInterrupt:
            print(f"\n{prog}: interrupted; to go on, run the same command again", file=sys.stderr)
            return INTERRUPTED


@dataclass(frozen=True)
class Tools:
    """Commands of two words: the second, and the module whose `main(argv)` runs it."""

    summary: str
    modules: Mapping[str, str]

    def run(self, prog: str, argv: Sequence[str]) -> int:
        if argv and argv[0] in self.modules:
            return import_module(self.modules[argv[0]]).main(list(argv[1:]))
        usage = f"usage: {prog} {'|'.join(self.modules)} [option ...]\n\n{self.summary}"
        if argv and argv[0] in HELP:
            print(usage)
            return 0
        return fail(prog, f"unknown command {argv[0]!r}\n{usage}" if argv else f"a command is missing\n{usage}")


Command = Method | Program | Tools
COMMANDS: dict[str, Command] = {
    "sft": Method("Supervised fine-tuning on good answers.", "SFTTrainer", "sft"),
    "reward": Method("Train a reward model on pairs of answers.", "RewardTrainer"),
    "dpo": Method("Direct preference optimization and its family of losses.", "DPOTrainer"),
    "rrhf": Method("Rank answers as their scores do, and imitate the best.", "RRHFTrainer"),
    "rejection-sampling": Method(
        "Draw responses, train on the best of them, and again.", "RejectionSamplingTrainer", "any"
    ),
    "ppo": Method("PPO-max: draw, score, and learn from it at once.", "PPOTrainer", "any"),
    "best-of-n": Program("Draw N responses to each prompt and select by scores.", "Best of N", ".best_of_n"),
    "self-rejected": Program(
        "Pairs for DPO: a dataset's answers above the model's own.", "Self-rejected", ".self_rejected"
    ),
    "compare": Program("Compare methods side by side, with error bars.", "Compare", ".compare"),
    "data": Tools("Find what is wrong with a dataset: prefopt data check FILE.", {"check": "prefopt.cli.data_check"}),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a check found something, 2 an error, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in HELP:
        print(overview())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"prefopt {__version__}")
        return 0
    return _run(words[0], words[1:])


def overview() -> str:
    """What `prefopt --help` prints."""
    width = max(map(len, COMMANDS))
    commands = [f"  {name:<{width}} {command.summary}" for name, command in COMMANDS.items()]
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
        return fail("prefopt", f"unknown command {name!r}; {hint}")
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return _guarded(COMMANDS[name], prog, argv)


def _guarded(command: Command, prog: str, argv: Sequence[str]) -> int:
    """Run it; what a user can mend becomes one message, everything else keeps its traceback."""
    try:
        return command.run(prog, argv)
    except KeyboardInterrupt:
        print(f"\n{prog}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("PREFOPT_DEBUG") == "1":
            raise
        return fail(prog, str(error) if _is_ours(error) else f"{error}\n(PREFOPT_DEBUG=1 shows where this was raised)")


def _is_ours(error: BaseException) -> bool:
    """Raised by this library, whose messages say all there is to say."""
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    return place is not None and place.tb_frame.f_globals.get("__name__", "").startswith("prefopt.")


def is_first() -> bool:
    """Whether this is the one of several processes that speaks."""
    return os.environ.get("RANK", "0") == "0"


def fail(prog: str, message: str) -> int:
    """Say what went wrong; of several processes, the others say which one they are."""
    prefix = "" if is_first() else f"[rank {os.environ['RANK']}] "
    print(f"{prefix}{prog}: error: {message}", file=sys.stderr)
    return 2


def set_up_logging() -> None:
    """prefopt's own notes, from the first process only; what libraries say stays as they set it."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("prefopt").setLevel(logging.INFO if is_first() else logging.ERROR)
    # Deprecations inside libraries are for their authors; those of arguments were shown while parsing.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|accelerate|torch)\b")


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    if is_first():
        print(f"warning: {message}", file=sys.stderr)

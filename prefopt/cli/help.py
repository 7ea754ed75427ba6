"""The help page of a command: which arguments it shows, in which order. Knows nothing of what they do."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any, get_args, get_origin

from ..objectives.sampling_arguments import IterationArguments
from ..training.arguments import ModelConfig, ScorerArguments, ScriptArguments
from ..training.config import PreferenceConfig
from .values import Option

MODEL = ("trust_remote_code", "model_init_kwargs", "chat_template_path", "eos_token", "pad_token")
DATA = ("max_length", "max_prompt_length", "truncation_mode", "dataset_num_proc")
TRAINING = [
    "output_dir",
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "max_tokens_per_batch",
    "gradient_accumulation_steps",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "bf16",
    "gradient_checkpointing",
    "eval_strategy",
    "eval_steps",
    "per_device_eval_batch_size",
    "logging_steps",
    "report_to",
    "save_steps",
    "save_total_limit",
    "resume_from_checkpoint",
    "seed",
]
RARE = ("Old name", "Accepted for compatibility", "Must stay")
"""How the help text begins of what only the whole page shows."""
RARELY = "ddp_backend"
"""Whoever has this has transformers' arguments, of which only the whole page shows all."""
WIDEST = 100
SHORT, MANY = 32, 12  # choices of so many letters stand in the flag; of so many words, in the text
TYPES = {bool: "BOOL", int: "N", float: "X", dict: "JSON"}
USAGE = "{prog} --model_name_or_path MODEL{more} --dataset_name DATA [...]"
EXAMPLE = """A value in [] is the default. Example:

  {prog} --model_name_or_path Qwen/Qwen3-0.6B \\
      --dataset_name {more}
"""
PRESET = "The settings to start from, in the place of the defaults below; what is given beside it wins."
ASKED = frozenset({"-h", "--help", "--help-all"})
Section = tuple[str, list[str]]
"""A title and the names of the arguments under it."""


def page(
    prog: str,
    summary: str,
    parts: Iterable[Section],
    options: dict[str, Option],
    example: str,
    whole: bool = True,
    presets: Iterable[str] = (),
) -> str:
    """The text that `--help` prints; the `whole` of it also has what is rarely wanted.

    `example` is what stands in the example after `--dataset_name`.
    """
    parser = ArgumentParser(
        prog=prog,
        usage=USAGE.format(prog=prog, more="" if len(prog) < len("prefopt dataset") else "\n          "),
        description=summary,
        epilog=EXAMPLE.format(prog=prog, more=example),
        add_help=False,
        formatter_class=_formatter,
    )
    for number, (title, names) in enumerate(parts):
        group = parser.add_argument_group(title)
        if presets and number == 0:
            group.add_argument("--preset", metavar=f"{{{','.join(presets)}}}", help=PRESET)
        for name in names:
            if whole or not options[name].help.startswith(RARE):
                _add(group, options[name])
    general = parser.add_argument_group("General")
    general.add_argument("--config", metavar="FILE", help="YAML file with `name: value` lines; the command line wins.")
    general.add_argument("--help", action="store_true", help="Show this page.")
    if RARELY in options:
        general.add_argument("--help-all", action="store_true", help="Show every argument, transformers' included.")
    return parser.format_help()


def sections(config: type, options: dict[str, Option], whole: bool) -> Iterator[Section]:
    """Of a training command: the method's own first, then model, data and training."""
    shared, model, data = (names_of(kind) for kind in (PreferenceConfig, ModelConfig, ScriptArguments))
    drawn = [name for name in (*names_of(ScorerArguments), *names_of(IterationArguments)) if name in options]
    # A config's fields come base class first; what the method itself declares stands at the end.
    own = [name for name in names_of(config) if name not in {*shared, *drawn}]
    if own:
        yield f"{config.__name__.removesuffix('Config')}", own
    if drawn:
        yield "Drawing responses, with --scorer", drawn
    yield "Model and LoRA", [*model, *MODEL]
    yield "Data", [*data, *DATA]
    yield "Training", list(TRAINING)
    if whole:
        seen = {*own, *drawn, *model, *MODEL, *data, *DATA, *TRAINING}
        yield "Everything else", [name for name in options if name not in seen]


def names_of(kind: Any) -> list[str]:
    """The fields of a dataclass, in their order."""
    return [field.name for field in fields(kind)]


def _add(group: Any, option: Option) -> None:
    flag = f"--[no_]{option.name}" if option.default is True else f"--{option.name}"
    # argparse fills in % itself: help texts come with theirs doubled, defaults do not.
    text = f"{' '.join(option.help.split())}{_known(option)}".replace("%%", "%").replace("%", "%%")
    if bool in option.kinds:
        group.add_argument(flag, action="store_true", help=text)
    else:
        group.add_argument(flag, metavar=_metavar(option), help=text)


def _metavar(option: Option) -> str:
    if option.choices and sum(map(len, option.choices)) <= SHORT:
        return f"{{{','.join(option.choices)}}}"
    items = next((get_args(kind) for kind in option.kinds if get_origin(kind) is list), None)
    kinds = [get_origin(kind) or kind for kind in items or option.kinds]
    return next((TYPES[kind] for kind in kinds if kind in TYPES), "TEXT") + (" ..." if items else "")


def _known(option: Option) -> str:
    """The choices that the flag does not show, and the default where there is something to say."""
    some = sum(map(len, option.choices)) > SHORT and len(option.choices) <= MANY
    choices = f" One of {', '.join(option.choices)}." if some and option.choices[-1] not in option.help else ""
    default = option.default
    if default in (None, "", []) or isinstance(default, bool):
        return choices
    shown = " ".join(map(str, default)) if isinstance(default, list) else getattr(default, "value", default)
    return f"{choices} [{shown}]"


def _formatter(prog: str) -> RawDescriptionHelpFormatter:
    width = min(shutil.get_terminal_size().columns, WIDEST) - 1
    return RawDescriptionHelpFormatter(prog, max_help_position=28, width=width)

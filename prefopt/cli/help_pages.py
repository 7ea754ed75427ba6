"""What stands on the help page of a command whose settings are dataclasses, and in which order.

`python -m prefopt.cli.help_pages` writes the short pages to the file from which `--help` is answered at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from typing import Any

from transformers import TrainingArguments

from ..objectives.sampling_arguments import IterationArguments
from ..training.arguments import ModelConfig, ScorerArguments, ScriptArguments
from ..training.config import PreferenceConfig
from .command import HELP, HELP_ALL, Command
from .commands import all_commands
from .help_page import Entry, Page, Section, keep, titled
from .options import Option

NEEDED = ("model_name_or_path", "dataset_name")
OUTPUT = ("output_dir", "resume_from_checkpoint")
MODEL = (
    "trust_remote_code",
    "model_init_kwargs",
    "chat_template_path",
    "chat_template_kwargs",
    "eos_token",
    "pad_token",
)
DATA = ("max_length", "max_prompt_length", "truncation_mode", "dataset_num_proc")
TRAINING = (
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
    "seed",
)
SHORT: Mapping[str, Sequence[str]] = {
    "Model": ("use_peft", "lora_r", "load_in_4bit"),
    "Data": ("eval_ratio", "max_length"),
    "Training": ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"),
}
"""What the short page of a training command shows beside what is needed and the method's own settings."""
OLD = ("Old name", "Accepted for compatibility", "Must stay")
"""How the help text begins of what stands at the very end."""
PRESET = "Settings to start from, in the place of the defaults below; what is given beside it wins."
GENERAL = (
    Entry("--config", "FILE", "YAML file with `name: value` lines; the command line wins."),
    Entry("--help", "", "Show the most important options."),
    Entry(HELP_ALL, "", "Show all options."),
)


def asked_for(argv: Iterable[str]) -> bool:
    """Whether the words ask for a help page."""
    return bool((HELP | {HELP_ALL}) & set(argv))


def names_of(kind: Any) -> list[str]:
    """The fields of a dataclass, in their order."""
    return [field.name for field in fields(kind)]


class Pages:
    """Builds the pages of one command.

    Args:
        options: every option of the command, by name.
        needed: the names of those that it cannot do without.
        data: the data of the example.
        more: what follows in the example.
        presets: names of presets, if the command has any.
    """

    def __init__(
        self,
        command: Command,
        prog: str,
        options: Mapping[str, Option],
        needed: Sequence[str],
        data: str,
        more: str,
        presets: Iterable[str] = (),
    ):
        self.command, self.prog, self.options, self.needed = command, prog, options, needed
        self.data, self.more, self.presets = data, more, tuple(presets)

    def short(self, title: str, groups: Mapping[str, Sequence[str]]) -> Page:
        """What is needed, where it goes, the method's own most important settings, and the groups."""
        count = len(self.options) + len(GENERAL) + bool(self.presets)
        more = f"\nAll {count} options: {self.prog} {HELP_ALL}\n"
        return self._page(self._sections(title, groups, whole=False), GENERAL[:1], more)

    def all(self, title: str, groups: Mapping[str, Sequence[str]]) -> Page:
        """Every option: what is needed first, then the groups; what no group has and old names come last."""
        return self._page(self._sections(title, groups, whole=True), GENERAL)

    def _sections(self, title: str, groups: Mapping[str, Sequence[str]], whole: bool) -> tuple[Section, ...]:
        """What is needed, where it goes, the most important own settings, the groups; each option once, as early."""
        groups = {"Required": self.needed, "Output": OUTPUT, title: self.command.settings, **groups}
        left = dict(self.options)
        old = [left.pop(name) for name in list(left) if left[name].help.startswith(OLD)]
        sections: dict[str, list[Entry]] = {}
        for group, names in groups.items():
            sections[group] = [left.pop(name).entry(whole) for name in names if name in left]
        if self.presets:
            sections[title].insert(0, Entry("--preset", f"{{{','.join(self.presets)}}}", PRESET))
        if whole:
            sections["Old names, and what is accepted for compatibility"] = [each.entry() for each in old]
            assert not left, f"no group has {', '.join(left)}"
        return titled(*sections.items())

    def _page(self, sections: tuple[Section, ...], general: tuple[Entry, ...], more: str = "") -> Page:
        long = len(self.prog) > len("prefopt dpo")
        usage = f"--model_name_or_path MODEL{chr(10) + ' ' * 11 if long else ' '}--dataset_name DATA [option ...]"
        example = f"--model_name_or_path Qwen/Qwen3-0.6B \\\n      --dataset_name {self.data}{self.more}\n"
        return Page(self.prog, usage, self.command.summary, (*sections, Section("General", general)), example, more)


def training_groups(config: type, options: Mapping[str, Option], title: str) -> dict[str, list[str]]:
    """The groups of a training command: sampling, model, data, training; then rarer settings, the method's own last."""
    shared, transformers = set(names_of(PreferenceConfig)), set(names_of(TrainingArguments))
    sampling = [*names_of(ScorerArguments), *names_of(IterationArguments)] if "scorer" in options else []
    own = [name for name in names_of(config) if name not in shared]
    groups = {
        "Sampling responses, with --scorer": sampling,
        "Model and LoRA": [*names_of(ModelConfig), *MODEL],
        "Data": [*names_of(ScriptArguments), *DATA],
        "Training": list(TRAINING),
    }
    groups["More of training"] = [name for name in names_of(PreferenceConfig) if name not in transformers]
    groups["More of training, transformers' own"] = [name for name in options if name not in own]
    return {**groups, f"More of {title}": own}


def short_pages() -> dict[str, Page]:
    """The short page of every command that has one, from the dataclasses of its settings."""
    commands = {name: command for name, command in all_commands().items() if command.module}
    modules = {name: import_module(command.module) for name, command in commands.items()}
    return {
        name: modules[name].help_page(command, f"prefopt {name}", whole=False)
        for name, command in commands.items()
        if hasattr(modules[name], "help_page")
    }


if __name__ == "__main__":
    keep(short_pages())

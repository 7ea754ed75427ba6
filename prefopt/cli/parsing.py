"""Flags and a YAML file -> dataclasses, with errors that say what was meant. Knows no particular argument."""

from __future__ import annotations

import sys
from argparse import ArgumentError, ArgumentTypeError
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from transformers import HfArgumentParser

from ..training.setting_names import meant
from ..utils.settings import SettingsError, read_yaml
from .console import is_first, said
from .options import Option


class TrlParser(HfArgumentParser):
    """HfArgumentParser with a YAML file of defaults, and with errors that name the nearest valid argument.

    A bad argument ends the program with exit code 2 and one message, as argparse does, less the page of usage.

    Args:
        presets: name -> other defaults, which `--preset NAME` asks for, or `preset: NAME` in the file.
    """

    def __init__(
        self, dataclass_types: Any = None, *, presets: Mapping[str, Mapping[str, Any]] | None = None, **kwargs: Any
    ):
        self.presets = presets or {}
        kinds: Any = [dataclass_types] if isinstance(dataclass_types, type) else list(dataclass_types or ())
        super().__init__(kinds, **{"allow_abbrev": False, "exit_on_error": False} | kwargs)
        self.options = {
            field.name: Option.of(field, hints[field.name])
            for kind in kinds
            for hints in [get_type_hints(kind)]
            for field in fields(kind)
            if field.init
        }
        for action in self._actions:
            if action.nargs != 0 and action.dest in self.options:
                self._teach(action, self.options[action.dest])

    @staticmethod
    def _teach(action: Any, option: Option) -> None:
        """Let an argparse action read what its option takes, with the option's own messages."""
        several = action.nargs in ("+", "*")
        action.type, action.choices = option.read_item if several else option.read, None
        if bool in option.kinds and not several:
            action.nargs, action.const = "?", True

    def describe(self, name: str, help: str, default: Any) -> None:
        """Give an argument another help text and default than its dataclass does."""
        self.options[name] = replace(self.options[name], help=help, default=default)
        self.set_defaults(**{name: default})

    def parse_args_and_config(
        self,
        args: Iterable[str] | None = None,
        return_remaining_strings: bool = False,
        fail_with_unknown_args: bool = True,
    ) -> tuple[Any, ...]:
        """The dataclasses, in the constructor's order; `--config` names a YAML file whose values become defaults.

        With `return_remaining_strings` what no dataclass knows is returned last instead of being an error.
        """
        config, flags = self._take("--config", list(sys.argv[1:] if args is None else args), "the path of a YAML file")
        preset, flags = self._take("--preset", flags, "a name") if self.presets else (None, flags)
        values = dict(self._read(config)) if config else {}
        self._preset(preset, values)
        strangers = self._apply(values, strict=fail_with_unknown_args and not return_remaining_strings)
        try:
            # Unknown flags first: a dataclass that refuses its values would hide them.
            _, rest = self.parse_known_args(flags)
            if rest and not return_remaining_strings:
                self.error(self._unknown(rest))
            *found, rest = self.parse_args_into_dataclasses(
                flags, return_remaining_strings=True, look_for_args_file=False
            )
        except ArgumentError as error:
            self.error(f"{(error.argument_name or '').split('/')[0]} {error.message}".strip())
        return (*found, strangers + rest) if return_remaining_strings else tuple(found)

    def _take(self, flag: str, args: list[str], what: str) -> tuple[str | None, list[str]]:
        """What follows the flag, and the other words."""
        found, rest, words = None, [], iter(args)
        for word in words:
            if word == flag:
                found = next(words, None) or self.error(f"{flag} expects {what}")
            elif word.startswith(f"{flag}="):
                found = word.removeprefix(f"{flag}=")
            else:
                rest.append(word)
        return found, rest

    def _preset(self, flag: str | None, values: dict[str, tuple[Any, str]]) -> None:
        """Make a preset's values the defaults: the one of the command line, else the file's."""
        value, where = values.pop("preset", (None, "")) if self.presets else (None, "")
        name, where = (flag, "--preset") if flag else (value, f"{where}: preset")
        if name is None:
            return
        if name not in self.presets:
            self.error(f"{where} {name}: choose one of {', '.join(self.presets)}")
        self.set_defaults(**self.presets[name])

    def _apply(self, values: Mapping[str, tuple[Any, str]], strict: bool) -> list[str]:
        """Make the file's values the defaults; what nothing knows is an error, or returned as flags."""
        strangers: list[str] = []
        for name, (value, where) in values.items():
            if name in self.options:
                self._default(name, value, where)
            elif strict:
                self.error(f"{where}: unknown key {name!r}{self._meant(name)}")
            else:
                strangers += [f"--{name}", str(value)]
        return strangers

    def _default(self, name: str, value: Any, where: str) -> None:
        try:
            self.set_defaults(**{name: self.options[name].read(value)})
        except ArgumentTypeError as error:
            self.error(f"{where}: {name} {error}")
        for action in self._actions:
            action.required = action.required and action.dest != name

    def _read(self, config: str) -> Mapping[str, tuple[Any, str]]:
        try:
            return read_yaml(Path(config).expanduser())
        except SettingsError as error:
            self.error(f"--config {error}")

    def _unknown(self, rest: list[str]) -> str:
        word = rest[0].split("=")[0]
        if word.startswith("-"):
            return f"unknown option {word}{self._meant(word.lstrip('-'), '--')}"
        return f"unexpected {word!r}: every argument has a name, such as --dataset_name {word} or --config {word}"

    def _meant(self, name: str, prefix: str = "") -> str:
        """The end of a message about a name that no option has."""
        said = meant(name, self.options, prefix)
        return said or (f"; {self.prog} --help-all lists all options" if self._lists_all else "")

    @property
    def _lists_all(self) -> bool:
        """Whether this is a command's parser, whose help page another module makes."""
        return not self.add_help

    def error(self, message: str) -> NoReturn:
        """One message, from the first of several processes, and exit code 2."""
        self.exit(2, f"{self.prog}: error: {said(message)}\n" if is_first() else None)
        raise AssertionError  # exit never returns

"""Flags and a YAML file -> dataclasses, with errors that say what was meant. Knows no particular argument."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentError, ArgumentTypeError
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, replace
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    dict: "a mapping",
    list: "a list",
    NoneType: "none",
}


@dataclass(frozen=True)
class Option:
    """One argument: its name and what may stand there."""

    name: str
    kinds: tuple[Any, ...]
    """The types it takes: several where the annotation is a union."""
    choices: tuple[str, ...]
    default: Any
    help: str

    @classmethod
    def of(cls, field: Field[Any], hint: Any) -> Option:
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        choices = field.metadata.get("choices", ())
        for kind in kinds:
            choices = choices or _members(kind)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        return cls(field.name, kinds, tuple(choices), default, field.metadata.get("help", ""))

    def read(self, value: Any) -> Any:
        """`value`, as YAML has it or as text from the command line, in one of the option's types.

        Raises:
            ArgumentTypeError: it is none of them; the message says what they are.
        """
        if value is False and "no" in self.choices:
            return "no"  # YAML reads a bare `no` as false
        found = read(value, self.kinds)
        if self.choices and found is not None:
            for item in found if isinstance(found, list) else [found]:
                self._check(item)
        return found

    def read_item(self, value: str) -> Any:
        """One of several values, where the option takes a list."""
        found = read(value, get_args(next(kind for kind in self.kinds if get_origin(kind) is list)) or (str,))
        self._check(found)
        return found

    def _check(self, value: Any) -> None:
        if self.choices and value not in self.choices:
            raise ArgumentTypeError(f"expects one of {', '.join(self.choices)}, not {value!r}")


def _members(kind: Any) -> tuple[str, ...]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(member.value for member in kind) if isinstance(kind, type) and issubclass(kind, Enum) else ()


def read(value: Any, kinds: Sequence[Any]) -> Any:
    """`value` as the first of `kinds` that it fits."""
    if isinstance(value, str):
        if dict in map(_plain, kinds) and value.lstrip().startswith("{"):
            kinds = [kind for kind in kinds if _plain(kind) is dict]  # JSON, and nothing else if it is broken
        elif NoneType in kinds and str not in kinds and value.lower() in ("none", "null"):
            return None
    for kind in sorted(kinds, key=lambda kind: kind is str):
        try:
            return _READERS.get(_plain(kind), _as_is)(value, kind)
        except (ValueError, TypeError, ArgumentTypeError):
            continue
    expected = " or ".join(dict.fromkeys(NAMES.get(_plain(kind), "text") for kind in kinds))
    raise ArgumentTypeError(f"expects {expected}, not {value!r}")


def _plain(kind: Any) -> Any:
    return get_origin(kind) or kind


def _bool(value: Any, kind: Any) -> bool:
    return value if isinstance(value, bool) else string_to_bool(str(value))


def _int(value: Any, kind: Any) -> int:
    if isinstance(value, bool | float):
        raise TypeError
    return int(value)


def _float(value: Any, kind: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)  # text too: YAML takes 1e-6, without a dot, for text


def _text(value: Any, kind: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _none(value: Any, kind: Any) -> None:
    if value is not None:
        raise TypeError


def _dict(value: Any, kind: Any) -> dict[str, Any]:
    value = json.loads(value) if isinstance(value, str) else value
    if not isinstance(value, dict):
        raise TypeError
    return value


def _list(value: Any, kind: Any) -> list[Any]:
    return [read(item, get_args(kind) or (str,)) for item in (value if isinstance(value, list) else [value])]


def _as_is(value: Any, kind: Any) -> Any:
    """A choice is checked by its option; an object's own constructor says what is wrong with a mapping."""
    if not isinstance(value, str | dict):
        raise TypeError
    return value


_READERS: dict[Any, Callable[[Any, Any], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _text,
    NoneType: _none,
    dict: _dict,
    list: _list,
}


class TrlParser(HfArgumentParser):
    """HfArgumentParser with a YAML file of defaults, and with errors that name the nearest valid argument.

    A bad argument ends the program with exit code 2 and one message, as argparse does, less the page of usage.
    """

    def __init__(self, dataclass_types: Any = None, **kwargs: Any):
        kinds = [dataclass_types] if isinstance(dataclass_types, type) else list(dataclass_types or ())
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
        """The dataclasses, in the order given to the constructor; `--config` names a YAML file whose values are defaults.

        With `return_remaining_strings` what no dataclass knows is returned last instead of being an error.
        """
        config, flags = self._config(list(sys.argv[1:] if args is None else args))
        strangers = (
            self._apply(config, strict=fail_with_unknown_args and not return_remaining_strings) if config else []
        )
        try:
            *found, rest = self.parse_args_into_dataclasses(
                flags, return_remaining_strings=True, look_for_args_file=False
            )
        except ArgumentError as error:
            self.error(f"{(error.argument_name or '').split('/')[0]} {error.message}".strip())
        if return_remaining_strings:
            return (*found, strangers + rest)
        if rest:
            self.error(self._unknown(rest))
        return tuple(found)

    def _config(self, args: list[str]) -> tuple[str | None, list[str]]:
        """The path after --config, and the other flags."""
        config, rest, words = None, [], iter(args)
        for word in words:
            if word == "--config":
                config = next(words, None) or self.error("--config expects the path of a YAML file")
            elif word.startswith("--config="):
                config = word.removeprefix("--config=")
            else:
                rest.append(word)
        return config, rest

    def _apply(self, config: str, strict: bool) -> list[str]:
        """Make the file's values the defaults; what nothing knows is an error, or returned as flags."""
        strangers: list[str] = []
        for name, (value, where) in self._read(config).items():
            if name in self.options:
                self._default(name, value, where)
            elif strict:
                self.error(f"{where}: unknown key {name!r}{self._nearest(name)}")
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
        except (OSError, ValueError) as error:
            self.error(f"--config {config}: {getattr(error, 'strerror', None) or error}")

    def _unknown(self, rest: list[str]) -> str:
        word = rest[0].split("=")[0]
        if word.startswith("-"):
            return f"unknown option {word}{self._nearest(word.lstrip('-'), '--')}"
        return f"unexpected {word!r}: every argument has a name, such as --dataset_name {word} or --config {word}"

    def _nearest(self, name: str, prefix: str = "") -> str:
        name = name.replace("-", "_")
        found = get_close_matches(name, self.options, n=2) or [known for known in self.options if name in known][:2]
        return f"; did you mean {' or '.join(prefix + known for known in found)}?" if found else ""

    def error(self, message: str) -> NoReturn:
        """One message, from the first of several processes, and exit code 2."""
        first = os.environ.get("RANK", "0") == "0"
        self.exit(2, f"{self.prog}: error: {message}\n" if first else None)
        raise AssertionError  # exit never returns


def read_yaml(path: Path) -> dict[str, tuple[Any, str]]:
    """Keys of a YAML mapping, with `-` as `_` -> value and "file:line".

    Raises:
        ValueError: not YAML, not a mapping, or a key twice.
    """
    text = path.read_text(encoding="utf-8")
    try:
        node, values = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"not valid YAML in line {line}: {error.problem}") from error
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("holds no mapping: write one `name: value` per line")
    places: dict[str, str] = {}
    for key, _ in node.value:
        name = str(key.value).replace("-", "_")
        if name in places:
            raise ValueError(f"{name!r} stands in {places[name]} and again in line {key.start_mark.line + 1}")
        places[name] = f"{path}:{key.start_mark.line + 1}"
    named = {str(key).replace("-", "_"): value for key, value in values.items()}
    return {name: (value, places.get(name, str(path))) for name, value in named.items()}

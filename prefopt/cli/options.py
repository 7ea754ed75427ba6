"""An option of a command: its name, what may stand there, and how a help page shows it. Knows no particular option."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from dataclasses import MISSING, Field, dataclass
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from ..utils.settings import kinds_of, read
from .help_page import Entry

SHORT, MANY = 32, 12  # choices of so many letters stand in the flag; of so many words, in the text
METAVARS = {bool: "BOOL", int: "N", float: "X", dict: "JSON", str: "TEXT"}
SENTENCE = re.compile(r".+?[.](?=\s|$)", re.S)


@dataclass(frozen=True)
class Option:
    """One option: its name and what may stand there."""

    name: str
    kinds: tuple[Any, ...]
    """The types it takes: several where the annotation is a union."""
    choices: tuple[str, ...]
    default: Any
    help: str

    @classmethod
    def of(cls, field: Field[Any], hint: Any) -> Option:
        """The option that a dataclass field is."""
        kinds = kinds_of(hint)
        choices = field.metadata.get("choices") or next(filter(None, map(_members, kinds)), ())
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

    def entry(self, whole: bool = True) -> Entry:
        """The option on a help page: with its `whole` text, or with the first sentence of it."""
        flag = f"--[no_]{self.name}" if self.default is True else f"--{self.name}"
        help = " ".join(self.help.replace("%%", "%").split())
        if not whole and (sentence := SENTENCE.match(help)):
            help = sentence.group()
        choices = f" One of {', '.join(self.choices)}." if self._tells_choices else ""
        metavar = "" if bool in self.kinds else self._metavar
        return Entry(flag, metavar, f"{help}{choices}{self._known_default}")

    @property
    def _metavar(self) -> str:
        if self.choices and sum(map(len, self.choices)) <= SHORT:
            return f"{{{','.join(self.choices)}}}"
        items = next((get_args(kind) for kind in self.kinds if get_origin(kind) is list), None)
        kinds = [get_origin(kind) or kind for kind in items or self.kinds]
        return next((METAVARS[kind] for kind in kinds if kind in METAVARS), "TEXT") + (" ..." if items else "")

    @property
    def _tells_choices(self) -> bool:
        """Whether the text has to say what the flag does not show."""
        long = sum(map(len, self.choices)) > SHORT and len(self.choices) <= MANY
        return long and self.choices[-1] not in self.help

    @property
    def _known_default(self) -> str:
        default = self.default
        if default in (None, "", []) or isinstance(default, bool):
            return ""
        shown = " ".join(map(str, default)) if isinstance(default, list) else getattr(default, "value", default)
        return f" [{shown}]"


def _members(kind: Any) -> tuple[str, ...]:
    """The words that an enumeration or a literal type consists of."""
    if get_origin(kind) is Literal and all(isinstance(word, str) for word in get_args(kind)):
        return get_args(kind)
    return tuple(member.value for member in kind) if isinstance(kind, type) and issubclass(kind, Enum) else ()

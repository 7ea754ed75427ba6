"""A value as YAML or the command line has it -> the type that an argument asks for. Knows no particular argument."""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

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


def _members(kind: Any) -> tuple[str, ...]:
    """The words that an enumeration or a literal type consists of."""
    if get_origin(kind) is Literal and all(isinstance(word, str) for word in get_args(kind)):
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


def _literal(value: Any, kind: Any) -> Any:
    if value not in get_args(kind):
        raise ValueError
    return value


def _as_is(value: Any, kind: Any) -> Any:
    """A member's name is checked by its option; an object's own constructor says what is wrong with a mapping."""
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
    Literal: _literal,
}

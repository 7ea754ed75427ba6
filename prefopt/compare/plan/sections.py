"""A mapping, as YAML holds it, into a frozen dataclass; errors say where and what was meant. Knows no section."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class PlanError(ValueError):
    """A plan that cannot be carried out; the message says where and what to write instead."""


def built(kind: type[T], given: Any, where: str) -> T:
    """The dataclass of this kind whose fields are given.

    Raises:
        PlanError: no mapping, an unknown or missing key, or a value of another type.
    """
    if not isinstance(given, Mapping):
        raise PlanError(f"{where}: given {given!r}; write one `name: value` per line")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            raise PlanError(f"{where}: unknown key {name!r}{nearest(str(name), known)}")
    missing = [n for n, f in known.items() if n not in given and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise PlanError(f"{where}: {missing[0]!r} is missing")
    hints = get_type_hints(kind)
    return kind(**{name: _checked(value, hints[name], f"{where}: {name}") for name, value in given.items()})


def nearest(name: str, known: Any) -> str:
    """A hint at what was meant."""
    found = get_close_matches(name.replace("-", "_"), [str(each) for each in known], n=2) or get_close_matches(
        name, [str(each) for each in known], n=2
    )
    return f"; did you mean {' or '.join(found)}?" if found else f"; known are {', '.join(map(str, known))}"


def _checked(value: Any, hint: Any, where: str) -> Any:
    """The value, lists as tuples and whole numbers as floats where these are wanted."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        matched, found = _as(value, option, where)
        if matched:
            return found
    names = " or ".join(getattr(option, "__name__", str(option)) for option in options)
    raise PlanError(f"{where}: {value!r} is no {names.replace('NoneType', 'null')}")


def _as(value: Any, option: Any, where: str) -> tuple[bool, Any]:
    origin = get_origin(option)
    if option is Any:
        return True, value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            return False, None
        return True, tuple(_checked(each, get_args(option)[0], where) for each in value)
    if origin is Mapping:
        return isinstance(value, Mapping), value
    if option is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    return isinstance(value, option) and not (option is int and isinstance(value, bool)), value

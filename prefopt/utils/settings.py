"""Settings from a YAML file or a command line into the types that dataclasses ask for. Which settings, callers say.

Numbers may come as text: a command line has nothing else, and YAML 1.1 takes 1e-6, without a point, for text.
"""

from __future__ import annotations

import json
import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from . import secrets
from .names import hint
from .visible import shown

T = TypeVar("T")
WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", NoneType: "none"}
ITEMS = {bool: "true or false", int: "integers", float: "numbers", str: "texts"}
MOST_VALUES = 100_000
"""In a file of settings, with every alias put in its place."""
TRUE, FALSE = ("true", "yes", "t", "y", "1"), ("false", "no", "f", "n", "0")


class SettingsError(ValueError):
    """A file or a value that is no setting; the message says where and what to write instead."""


class NumberLoader(yaml.SafeLoader):
    """Reads 5e-7 as a number, which YAML 1.1 takes for text: for settings whose types nothing declares."""


NumberLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(path: Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> dict[str, tuple[Any, str]]:
    """The keys of a YAML mapping, with `-` as `_` -> the value and "file:line".

    Raises:
        SettingsError: the file is missing or unreadable, no YAML, no mapping, or has a key twice.
    """
    text = read_text(path)
    try:
        node = yaml.compose(text, Loader=loader)
        _check_size(node, path)
        values = yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SettingsError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not valid YAML: {error}") from error
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise SettingsError(f"{path}: holds no mapping: write one `name: value` per line")
    places: dict[str, str] = {}
    for key, _ in node.value:
        name = str(key.value).replace("-", "_")
        if name in places:
            raise SettingsError(f"{path}:{key.start_mark.line + 1}: {name!r} is here again, after {places[name]}")
        places[name] = f"{path}:{key.start_mark.line + 1}"
    named = {str(key).replace("-", "_"): value for key, value in values.items()}
    secrets.remember(named)
    return {name: (value, places.get(name, str(path))) for name, value in named.items()}


def _check_size(node: yaml.Node | None, path: Path) -> None:
    """Refuse a file whose aliases stand for more values than any settings have.

    Raises:
        SettingsError: there are more than `MOST_VALUES` with every alias put in its place, or an alias of itself.
    """
    sizes: dict[int, int | None] = {}  # None while the parts are counted

    def size_of(part: Any) -> int:
        if isinstance(part, tuple):
            return sum(map(size_of, part))
        if not isinstance(part, yaml.CollectionNode):
            return 1
        if id(part) not in sizes:
            sizes[id(part)] = None
            sizes[id(part)] = 1 + sum(map(size_of, part.value))
        size = sizes[id(part)]
        if size is None or size > MOST_VALUES:
            what = "holds itself" if size is None else f"stands for more than {MOST_VALUES:,} values"
            raise SettingsError(f"{path}:{part.start_mark.line + 1}: what begins here {what}: write it without aliases")
        return size

    if node is not None:
        size_of(node)


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        SettingsError: there is none, or it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 text: give the path of a YAML file") from error
    except OSError as error:
        raise SettingsError(unreadable(path, error)) from error


def unreadable(path: str | Path, error: OSError) -> str:
    """What to say of a file that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such file: check the path, which is taken from {Path.cwd()}"
    if isinstance(error, IsADirectoryError):
        return f"{path}: this is a folder: name a file in it"
    if isinstance(error, PermissionError):
        return f"{path}: permission denied: check who may read and write there"
    return f"{path}: {(error.strerror or str(error)).lower()}"


def built(kind: type[T], given: Any, where: str, aliases: Mapping[str, str] | None = None) -> T:
    """The dataclass of this kind whose fields are given by name.

    Args:
        where: what messages begin with.
        aliases: what else fields are called, for the hint after a wrong name.

    Raises:
        SettingsError: no mapping, an unknown or missing name, or a value of another type.
    """
    if not isinstance(given, Mapping):
        raise SettingsError(f"{where}: given {shown(given)}; write one `name: value` per line")
    known = {field.name: field for field in fields(kind) if field.init}  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            raise SettingsError(f"{where}: unknown key {name!r}{hint(str(name), known, aliases)}")
    missing = [n for n, f in known.items() if n not in given and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise SettingsError(f"{where}: {missing[0]!r} is missing")
    hints = get_type_hints(kind)
    return kind(**{name: _field(value, hints[name], f"{where}: {name}") for name, value in given.items()})


def _field(value: Any, annotation: Any, where: str) -> Any:
    try:
        return read(value, kinds_of(annotation))
    except ArgumentTypeError as error:
        raise SettingsError(f"{where} {error}") from error


def kinds_of(annotation: Any) -> tuple[Any, ...]:
    """The types of an annotation: several where it is a union."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def read(value: Any, kinds: Sequence[Any]) -> Any:
    """`value` as the first of `kinds` that it fits; text comes last, which everything on a command line would be.

    Raises:
        ArgumentTypeError: it fits none; the message says what they are.
    """
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
    expected = " or ".join(dict.fromkeys(map(_words, kinds)))
    raise ArgumentTypeError(f"expects {expected}, not {shown(value)}")


def _plain(kind: Any) -> Any:
    return get_origin(kind) or kind


def _words(kind: Any) -> str:
    """What stands for a type in a message."""
    if _plain(kind) in (list, tuple):
        item = _plain(next(iter(get_args(kind)), Any))
        return f"a list of {ITEMS[item]}" if item in ITEMS else "a list"
    return "a mapping" if _plain(kind) in (dict, Mapping) or is_dataclass(kind) else WORDS.get(_plain(kind), "text")


def _bool(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() not in TRUE + FALSE:
        raise ValueError
    return str(value).lower() in TRUE


def _int(value: Any, kind: Any) -> int:
    if isinstance(value, bool | float):
        raise TypeError
    return int(value)


def _float(value: Any, kind: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


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


def _mapping(value: Any, kind: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError
    return value


def _list(value: Any, kind: Any) -> list[Any]:
    kinds = kinds_of(next(iter(get_args(kind)), str))
    return [read(item, kinds) for item in (value if isinstance(value, list | tuple) else [value])]


def _tuple(value: Any, kind: Any) -> tuple[Any, ...]:
    return tuple(_list(value, kind))


def _literal(value: Any, kind: Any) -> Any:
    if value not in get_args(kind):
        raise ValueError
    return value


def _any(value: Any, kind: Any) -> Any:
    return value


def _as_is(value: Any, kind: Any) -> Any:
    """An object that is there already; a member's name, or a mapping, of which the object's constructor makes it."""
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    if not isinstance(value, dict if is_dataclass(kind) else str | dict):
        raise TypeError
    return value


_READERS: dict[Any, Callable[[Any, Any], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _text,
    NoneType: _none,
    dict: _dict,
    Mapping: _mapping,
    list: _list,
    tuple: _tuple,
    Literal: _literal,
    Any: _any,
}


def plain(value: Any) -> Any:
    """Dataclasses as a YAML file holds them, without what has its default value."""
    if is_dataclass(value):
        defaults = {field.name: _default(field) for field in fields(value)}
        given = {name: getattr(value, name) for name in defaults}
        return {name: plain(part) for name, part in given.items() if part != defaults[name]}
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def _default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()

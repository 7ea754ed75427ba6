"""Fingerprints of plain values and of Python code: equal in every process, and equal only for the same content.

Those of models are in `models/reference.py`.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

from .renamed import renamed


def fingerprint_of_values(value: Any) -> str:
    """A hash of whatever JSON holds, by which a change of it is noticed: 32 hex digits."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def fingerprint_of_code(function: Any) -> str:
    """A hash of a callable's source and of the plain values that it carries: 32 hex digits.

    These values are its defaults, what its closure holds, and its attributes.

    Raises:
        ValueError: it carries something else, whose changes could not be noticed.
    """
    try:
        return fingerprint_of_values(_described(function))
    except (TypeError, RecursionError) as error:
        raise ValueError(
            f"cannot tell when {function!r} changes ({error}): use a function that carries plain values only, or give "
            "a fingerprint yourself, as in CallableScorer(function, fingerprint='v1'), and another one when it changes"
        ) from error


def _described(value: Any) -> Any:
    """`value` as plain values, which JSON holds.

    Raises:
        TypeError: a value that these cannot describe.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_described(part) for part in value]
    if isinstance(value, set | frozenset):
        return sorted((_described(part) for part in value), key=repr)
    if isinstance(value, Mapping):
        return sorted(([_described(key), _described(part)] for key, part in value.items()), key=repr)
    return _described_code(value)


def _described_code(value: Any) -> Any:
    if isinstance(value, functools.partial):
        return ["partial", *map(_described, (value.func, value.args, value.keywords))]
    if inspect.ismethod(value):
        return ["method", _described(value.__func__), _described(value.__self__)]
    if inspect.isfunction(value):
        cells = [_described(cell.cell_contents) for cell in value.__closure__ or ()]
        defaults = _described((value.__defaults__, value.__kwdefaults__))
        return ["function", value.__qualname__, _source(value, value.__code__), defaults, cells]
    if isinstance(value, type):
        raise TypeError(f"it depends on {value!r}")
    # Of a class with a part in C, such as a tensor, the attributes do not say all.
    sources = [_source(kind, None) for kind in type(value).__mro__[:-1]]
    return ["object", type(value).__qualname__, sources, _described(vars(value))]


def _source(value: Any, code: CodeType | None) -> Any:
    """The source of a function or class; of a function without a file, what was compiled from it."""
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        if code is None:
            raise TypeError(f"it has no source: {value!r}") from None
        return _compiled(code)


def _compiled(code: CodeType) -> Any:
    constants = [_compiled(part) if isinstance(part, CodeType) else repr(part) for part in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"digest": "fingerprint_of_values", "fingerprint_of": "fingerprint_of_code"})

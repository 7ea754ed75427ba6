"""An adapter of a user's own, from `module:name`: what a name may stand for, and what kind of rows a function gives.

The name may stand for a function that `register` has entered, for an `Adapter`, for a plain function that takes a row
(a dict) and returns `Candidates`, or for a class of which an object, made without arguments, is one of these. How many
responses a plain function returns decides the kind: none is "prompt", one is "sft", two are "pair", and several, not
always as many, are "list".
"""

from collections.abc import Iterable
from typing import Any

from ...utils.extensions import load_named
from ..records import DataError
from .base import KINDS, REGISTRY, Adapter, Read, called, holds, never
from .fields import Drop, Row


def from_outside(path: str, sample: Iterable[tuple[str, Row]]) -> Adapter:
    """The adapter that `module:name` names, looked for in the current folder too.

    Args:
        sample: rows with the place of each, from which the kind of a plain function's rows is told.

    Raises:
        DataError: no such module or name, something that is no adapter, or a function that fails on the sample.
    """
    try:
        named = load_named(path, "adapter")
    except ValueError as error:
        raise DataError(str(error)) from error
    if isinstance(named, type):
        named = _made(named, path)
    if isinstance(named, Adapter):
        return named
    registered = next((adapter for adapter in REGISTRY.values() if adapter.read is named), None)
    if registered is not None:
        return registered
    if not callable(named):
        raise DataError(
            f"adapter {path} is {named!r}, which reads no rows: give a function that takes a row and returns "
            "prefopt.data.Candidates, or a prefopt.data.Adapter"
        )
    return Adapter(path, _kind(path, named, sample), "rows of your own format", never, named)


def _made(named: type, path: str) -> Any:
    try:
        return named()
    except TypeError as error:
        raise DataError(f"adapter {path} is a class that cannot be made without arguments: {error}") from error


def _kind(path: str, read: Read, sample: Iterable[tuple[str, Row]]) -> str:
    """The kind of rows that a plain function gives, by its responses to the sample."""
    counts: dict[int, str] = {}  # the number of responses -> where it was first seen
    reason = "there are none"
    for place, row in sample:
        try:
            counts.setdefault(len(called(path, read, row).responses), place)
        except Drop as drop:
            reason = f"{place}: {drop}"
        except DataError as error:
            raise DataError(f"{place}: {error}") from error
    if not counts:
        raise DataError(f"adapter {path}: none of the first rows could be used ({reason})")
    kind = next((kind for kind in KINDS if all(holds(kind, count) for count in counts)), None)
    if kind is None:
        seen = ", ".join(f"{count} ({place})" for count, place in sorted(counts.items()))
        raise DataError(
            f"adapter {path} returns rows of different kinds, by their numbers of responses: {seen}. A dataset has "
            "one kind: raise prefopt.data.Drop for the others"
        )
    return kind

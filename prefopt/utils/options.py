"""Settings as dataclass fields that bring their help texts, which command lines and documentation read."""

from __future__ import annotations

from dataclasses import MISSING, Field, field, fields
from typing import Any


def option(default: Any, help: str, **metadata: Any) -> Any:
    """A dataclass field with its help text.

    Args:
        default: the field's default, or a function that makes it, where it is a list or a mapping.
        help: what the setting does, in a sentence or two; what a command's `--help` prints.
        metadata: more for the command line, such as `choices`.
    """
    source = {"default_factory": default} if callable(default) else {"default": default}
    return field(**source, metadata={"help": help, **metadata})


def changed(arguments: type, name: str, default: Any) -> Any:
    """The field `name` of the dataclass `arguments`, help text and choices included, with another default."""
    metadata = dict(_field(arguments, name).metadata)
    return option(default, metadata.pop("help"), **metadata)


def worded(arguments: type, name: str, help: str) -> Any:
    """The field `name` of the dataclass `arguments`, with its default and another help text."""
    inherited = _field(arguments, name)
    factory = inherited.default_factory
    metadata = {key: value for key, value in inherited.metadata.items() if key != "help"}
    return option(inherited.default if factory is MISSING else factory, help, **metadata)


def _field(arguments: type, name: str) -> Field[Any]:
    (found,) = (each for each in fields(arguments) if each.name == name)
    return found

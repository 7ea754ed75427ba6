"""What a user wrote outside of prefopt, from its name: `module:name` names an objective, an adapter, a scorer, a judge.

Modules are looked for in the current folder too, whichever way the program was started.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from types import ModuleType
from typing import Any

from .names import did_you_mean

PATTERN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class NoSuchModule(ValueError, ModuleNotFoundError):
    """A module that a user named cannot be imported."""


def is_named(text: str) -> bool:
    """Whether a text has the form `module:name`, both of them with or without dots."""
    return PATTERN.fullmatch(text) is not None


def load_named(path: str, what: str) -> Any:
    """The object that `module:name` names, looked for in the current folder too.

    Args:
        path: the module and the name in it, both of which may have dots: `package.module:Class.method`.
        what: how messages call the thing or the option that named it, such as "adapter" or "--scorer".

    Raises:
        ValueError: the text has another form, the module cannot be imported, or it has no such name; the message says
            which, and which names exist there.
    """
    place, _, name = path.partition(":")
    if place.endswith(".py"):
        module_name = os.path.basename(place).removesuffix(".py")
        raise ValueError(f"{what} {path}: name the module, not its file: {module_name}:{name or 'my_name'}")
    if not is_named(path):
        raise ValueError(f"{what} {path}: write it as module:name, such as my_module:my_name")
    module = load_module(place, f"{what} {path}")
    found: Any = module
    for part in name.split("."):
        if part not in dir(found) and not hasattr(found, part):
            known = names_of(module)
            meant = f" {did_you_mean(name, known)}".rstrip()
            raise ValueError(f"{what} {path}: {place} has no {name};{meant} it has {', '.join(known) or 'no names'}")
        found = getattr(found, part)
    return found


def load_module(place: str, where: str) -> ModuleType:
    """The module at a dotted path, looked for in the current folder too.

    Args:
        place: the module's dotted path.
        where: what messages begin with.

    Raises:
        NoSuchModule: the module, or one that the module imports, cannot be imported.
    """
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())  # as `python -m` does; an installed program's path lacks the folder
    importlib.invalidate_caches()  # the file may be younger than the last look into its folder
    try:
        return importlib.import_module(place)
    except ImportError as error:
        raise NoSuchModule(f"{where}: cannot import {place} from {os.getcwd()} or elsewhere: {error}") from error


def names_of(module: ModuleType) -> list[str]:
    """The public names that a module itself defines: what it merely imported is left out."""
    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return [
        name
        for name, value in own.items()
        if not isinstance(value, ModuleType) and getattr(value, "__module__", module.__name__) == module.__name__
    ]

"""What a user wrote outside of prefopt, from its name: `module:name` names an objective, an adapter, a scorer, a judge.

Modules are looked for in the current folder too, whichever way the program was started. What a module runs when it is
imported is its author's: which file that is, is said before.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate
from types import ModuleType
from typing import Any

from .names import did_you_mean

logger = logging.getLogger(__name__)

PATTERN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class NoSuchModule(ValueError, ModuleNotFoundError):
    """A module that a user named cannot be imported."""


class NotImported(ValueError):
    """A module that a user named is not imported, as nothing is to be."""


_forbidden: ContextVar[str] = ContextVar("forbidden", default="")


@contextmanager
def importing_nothing(why: str) -> Iterator[None]:
    """Refuse to import what a user named, with a `NotImported` that says why."""
    token = _forbidden.set(why)
    try:
        yield
    finally:
        _forbidden.reset(token)


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
    """The module at a dotted path, looked for in the current folder too; the log says which file that is before.

    Args:
        place: the module's dotted path.
        where: what messages begin with.

    Raises:
        NoSuchModule: the module, or one that the module imports, cannot be imported.
        NotImported: nothing is to be imported.
    """
    if why := _forbidden.get():
        raise NotImported(f"{where}: {place} is not imported: {why}")
    if place not in sys.modules and (file := file_of(place)):
        logger.info("%s: imports %s, which runs %s", where, place, file)
    try:
        return importlib.import_module(place)
    except ImportError as error:
        raise NoSuchModule(f"{where}: cannot import {place} from {os.getcwd()} or elsewhere: {error}") from error


def file_of(place: str) -> str | None:
    """The file that importing a dotted path runs last, found without importing anything; None if there is none."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())  # as `python -m` does; an installed program's path lacks the folder
    importlib.invalidate_caches()  # the file may be younger than the last look into its folder
    folders: Any = None
    found = None
    for name in accumulate(place.split("."), "{}.{}".format):
        specs = (finder.find_spec(name, folders) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        found = next((spec for spec in specs if spec is not None), None)
        if found is None:
            return None
        folders = found.submodule_search_locations or []
    return None if found is None else found.origin or next(iter(found.submodule_search_locations or ()), None)


def names_of(module: ModuleType) -> list[str]:
    """The public names that a module itself defines: what it merely imported is left out."""
    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return [
        name
        for name, value in own.items()
        if not isinstance(value, ModuleType) and getattr(value, "__module__", module.__name__) == module.__name__
    ]

"""Old names, of things in a module and of a function's arguments: they work for one more release, with a warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
REMOVED_IN = "0.3"


def renamed(
    module: str, names: Mapping[str, str], otherwise: Callable[[str], Any] | None = None
) -> Callable[[str], Any]:
    """A module's `__getattr__` by which what the module has is found under its old name too.

        if not TYPE_CHECKING:  # a type checker would take a module with a __getattr__ to have any name
            __getattr__ = renamed(__name__, {"old_name": "new_name"})

    Args:
        module: its `__name__`.
        names: old name -> new name, both in that module.
        otherwise: looks up what is not renamed, such as the `__getattr__` of a lazy package.
    """

    def find(name: str) -> Any:
        if name in names:
            warnings.warn(f"{module}.{name} is now {names[name]}; {_LEAVING}", FutureWarning, stacklevel=2)
            return getattr(sys.modules[module], names[name])
        if otherwise is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return otherwise(name)

    return find


def renamed_arguments(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lets a function take keyword arguments by their old names too: `@renamed_arguments(old_name="new_name")`.

    Raises:
        TypeError: when the function is called with an argument by both of its names.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in names.keys() & kwargs.keys():
                new = names[old]
                if new in kwargs:
                    raise TypeError(f"{function.__name__} got {old} and {new}, which are one argument: give {new}")
                warnings.warn(f"{function.__name__}: {old} is now {new}; {_LEAVING}", FutureWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


_LEAVING = f"the old name goes in {REMOVED_IN}"

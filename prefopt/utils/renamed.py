"""Names that have changed and go on working for one release, with a warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def renamed(
    module: str, names: Mapping[str, str], otherwise: Callable[[str], Any] | None = None
) -> Callable[[str], Any]:
    """A module's `__getattr__`, by which its old names still give what the new ones do.

    Assign it where a type checker does not look, or it would take any name for known:

        if not TYPE_CHECKING:
            __getattr__ = renamed(__name__, {"OldName": "NewName"})

    Args:
        module: the module's `__name__`.
        names: old name -> new name, both in that module.
        otherwise: the `__getattr__` that the module has for other names, as a package that imports lazily has one.
    """

    def getattr_(name: str) -> Any:
        if name in names:
            message = f"{module}.{name} is now {names[name]}; the old name goes in 0.3"
            warnings.warn(message, FutureWarning, stacklevel=2)
            return getattr(sys.modules[module], names[name])
        if otherwise is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return otherwise(name)

    return getattr_

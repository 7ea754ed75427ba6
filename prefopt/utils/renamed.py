"""Names that have changed and go on working for one release, with a warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__`, by which its old names still give what the new ones do.

    Assign it where a type checker does not look, or it would take any name for known:

        if not TYPE_CHECKING:
            __getattr__ = renamed(__name__, {"OldName": "NewName"})

    Args:
        module: the module's `__name__`.
        names: old name -> new name, both in that module.
    """

    def getattr_(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now {names[name]}; the old name goes in 0.3", FutureWarning, stacklevel=2)
        return getattr(sys.modules[module], names[name])

    return getattr_

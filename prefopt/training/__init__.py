"""Training: one trainer, what it is built of, and the named trainers of the field."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

import lazy_loader

from .declarations import public_names

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name not in __all__ and (path := public_names().get(name)):
        return resolve_name(path)
    return _public(name)

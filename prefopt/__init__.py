"""prefopt: preference optimization of language models. The public names (`__init__.pyi`); importing them is lazy."""

from __future__ import annotations

import logging
from pkgutil import resolve_name
from typing import Any

import lazy_loader

from . import _moved
from .training.declarations import public_names
from .utils.renamed import renamed

__version__ = "0.1.0"

# bitsandbytes warns, each time it is imported, that CPUs like this one could use an optional kernel: nothing is wrong.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

_public, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*_names, "__version__"]  # noqa: PLE0604

_moved.install()


def _public_name(name: str) -> Any:
    if name in _names:
        return _public(name)
    if path := public_names().get(name):
        return resolve_name(path)
    raise AttributeError(f"module 'prefopt' has no attribute {name!r}; it has {', '.join(__all__)}")


__getattr__ = renamed(__name__, {"BestOf": "SFT"}, _public_name)

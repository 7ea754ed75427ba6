"""Candidates: responses that are kept on disk with their scores, selected from, and measured."""

import lazy_loader

from ..utils.renamed import renamed

_published, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = renamed(
    __name__, {"Draw": "Origin", "fill": "generate_into", "search": "search_temperatures"}, _published
)

"""Candidates: responses that are kept on disk with their scores, selected from, and measured."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Scoring: text in, one number per response out, by a reward model, a function, or several scorers combined."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

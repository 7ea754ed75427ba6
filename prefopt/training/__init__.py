"""Training: one trainer, what it is built of, and the named trainers of the field."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

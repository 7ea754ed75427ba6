"""Models: loading, heads, critics, references, and `forward`, which turns a batch into what a model says of it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""People label: blind pairs to compare, a page to do it on, and what they say as rows of preferences."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

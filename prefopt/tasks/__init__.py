"""Work in steps: each has its folder, named by what it depends on, and a process; what is done is not done again."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

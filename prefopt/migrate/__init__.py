"""Scripts for TRL and files for LLaMA-Factory, as prefopt runs them, with what is left to do by hand."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

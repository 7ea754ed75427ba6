"""What is compared: the plan, the specs of its methods, and the sources of its rows."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""The methods, one file each. They know tensors only, so importing them needs torch alone."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

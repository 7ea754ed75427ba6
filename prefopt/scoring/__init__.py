"""What a response is worth: scorers of text, by a reward model, by a function, or by several scorers combined."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

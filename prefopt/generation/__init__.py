"""Generation: a policy and prompts in, responses out. `sampling` is the only place that generates."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""How a comparison is run: as tasks, named by what they depend on, in several processes, with their costs."""

import lazy_loader

from ...utils.extras import require

require("compare", ("pandas",), "prefopt.compare")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

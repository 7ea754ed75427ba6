"""How a policy is evaluated: by responses, held-out pairs, multiple choice, and judges that compare two responses."""

import lazy_loader

from ...utils.extras import require

require("compare", ("pandas",), "prefopt.compare")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Iterative rounds, RLHF-v1 to vN: label, refresh the reward model, sample, score, select, train, evaluate, again."""

import lazy_loader

from ..utils.extras import require

require("compare", ("pandas",), "prefopt.rounds")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""WHAT IS LEARNT? The training methods, one file each, and the base class `Objective` of them and of a user's own.

They compute with tensors, so importing them needs torch alone. The formulas of the DPO family are in `pair_losses.py`,
those of PPO in `ppo_losses.py`; hyperparameters with their help texts are in the files named `*_arguments` and with
their method.
"""

import lazy_loader

from ..utils.renamed import renamed

_published, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = renamed(__name__, {"BestOf": "SFT"}, _published)

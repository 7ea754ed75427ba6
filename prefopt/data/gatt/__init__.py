"""Ghost Attention (Llama 2, arXiv:2307.09288, section 3.3): instructions that a whole conversation is to keep to.

`sample_instructions` makes instructions, `gatt_rows` the rows to train on, `survival` measures for how many turns an
instruction is kept.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

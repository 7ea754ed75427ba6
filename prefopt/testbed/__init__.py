"""A synthetic task, in English and Chinese, whose gold reward is known: prompts, responses, preferences, a tiny model.

Everything is generated from a seed, without a download. `build_tokenizer` and `build_policy` are in
`prefopt.testbed.model`, and `measure`, which evaluates a policy, in `prefopt.testbed.measure`: importing this package
loads neither torch nor transformers.
"""

import lazy_loader

from ..utils.renamed import renamed

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = renamed(__name__, {"draw_prompt": "sample_prompt", "draw_prompts": "sample_prompts"}, _public)

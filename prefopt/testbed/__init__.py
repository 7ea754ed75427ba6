"""A synthetic task, in English and Chinese, whose gold reward is known: prompts, responses, preferences, a tiny model.

Everything is generated from a seed, without a download. `build_tokenizer` and `build_policy` are in
`prefopt.testbed.model`, and `measure`, which evaluates a policy, in `prefopt.testbed.measure`: importing this package
loads neither torch nor transformers.
"""

from typing import Any

import lazy_loader

from ..utils.renamed import renamed

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    return _public(renamed(__name__, name, {"draw_prompt": "sample_prompt", "draw_prompts": "sample_prompts"}))

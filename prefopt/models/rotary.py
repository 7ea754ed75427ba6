"""Rotary frequencies that a cast has rounded, put back to what a saved model is loaded with.

`model.to(torch.bfloat16)` rounds every buffer too, and with the frequencies of the rotary embedding the positions: the
weights are those of `from_pretrained(..., dtype=torch.bfloat16)`, which keeps the frequencies in float32, and the
outputs are not. Since the buffers are not saved, what was trained would not be what is loaded again.
"""

import logging
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)

FREQUENCIES = "inv_freq"


def restore_frequencies(model: nn.Module) -> int:
    """Put rotary frequencies of less than 32 bits back to float32, in place; how many buffers that were.

    Raises:
        ValueError: they cannot be computed again.
    """
    rounded = [(name, module, _rounded(module)) for name, module in model.named_modules() if _rounded(module)]
    for name, module, buffers in rounded:
        fresh = _fresh(name, module)
        for buffer in buffers:
            old = getattr(module, buffer)
            setattr(module, buffer, getattr(fresh, buffer).to(old.device))
    if rounded:
        logger.warning(
            "the model was cast to 16 bits after loading, which rounds the frequencies of its positions: they are back "
            "in float32, as the saved model has them. Load it by from_pretrained(..., dtype=...) instead of a cast"
        )
    return sum(len(buffers) for _, _, buffers in rounded)


def _rounded(module: nn.Module) -> list[str]:
    """The names of a module's own frequency buffers that have less than 32 bits."""
    own = module.named_buffers(recurse=False)
    return [name for name, buffer in own if name.endswith(FREQUENCIES) and torch.finfo(buffer.dtype).bits < 32]


def _fresh(name: str, module: nn.Module) -> Any:
    """The module as its config makes it."""
    kind: Any = type(module)
    try:
        return kind(module.config)
    except Exception as error:  # a class of another form, from anywhere
        raise ValueError(
            f"{name} ({kind.__name__}) has its frequencies in 16 bits, since the model was cast after loading, and "
            f"they cannot be computed again ({error}): load the model by from_pretrained(..., dtype=...)"
        ) from error

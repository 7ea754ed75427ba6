"""Whether the fast loop can decode a model (`is_supported`): decided by trying it on that very model, once.

Attention of its own making, state that goes from token to token beside attention, positions counted in another way: no
list of families stays complete. So a few rows go through the fast loop, one of them is dropped on the way, and only a
model that gives them the logits that it gives to each alone is decoded there. transformers' `generate` serves all
others.
"""

from __future__ import annotations

import logging
import random
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from ..models.attention import packed_attention
from ..models.wrappers import own_forward
from ._engine import Engine
from ._kv_cache import KERNEL

logger = logging.getLogger(__name__)

PROMPT_LENGTHS = (5, 9, 2)
PROMPT_OF_ROW = (0, 0, 1, 2, 2)
TOKENS = 6
"""Of each row's response."""
DROPPED, DROPPED_AFTER = 1, 3
"""Row number 1 leaves after three tokens."""

_supported: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def is_supported(inner: Any) -> bool:
    """Whether the fast loop can decode `inner`, a model without its wrappers, in evaluation mode."""
    if inner not in _supported:
        with torch.no_grad(), torch.random.fork_rng([]), torch.autocast(inner.device.type, enabled=False):
            reason = _mismatch(inner)
        if reason is not None:
            logger.warning("%s is sampled by generate, which is slower: %s", type(inner).__name__, reason)
        _supported[inner] = reason is None
    return _supported[inner]


def _mismatch(inner: Any) -> str | None:
    """Why the fast loop does not give what the model gives, or None if it does."""
    if any(isinstance(module, FSDPModule) for module in inner.modules()):
        return "its weights are gathered for each forward, on all ranks alike"
    exact = all(p.dtype in (torch.float32, torch.float64) for p in inner.parameters())
    rng = random.Random(0)
    vocab = inner.config.get_text_config().vocab_size
    prompts = [[rng.randrange(vocab) for _ in range(length)] for length in PROMPT_LENGTHS]
    tokens = [[rng.randrange(vocab) for _ in range(TOKENS)] for _ in PROMPT_OF_ROW]
    expected = [_alone(inner, prompts[prompt], row) for prompt, row in zip(PROMPT_OF_ROW, tokens, strict=True)]
    other_first_row = [[(token + 1) % vocab for token in tokens[0]], *tokens[1:]]
    try:
        logits, changed = (_together(inner, prompts, rows) for rows in (tokens, other_first_row))
    except Exception as error:  # whatever a model does with arguments that are new to it, generate still works
        return f"in the fast loop it fails: {type(error).__name__}: {error}".splitlines()[0]
    wrong, leak = _deviation(logits, expected), _deviation(changed[1:], logits[1:])
    if leak > (1e-5 if exact else 1e-2):
        return f"in the fast loop one row changes the logits of another (by {leak:.1e})"
    return None if wrong <= (1e-4 if exact else 0.1) else f"in the fast loop its logits differ by {wrong:.1e}"


def _alone(inner: Any, prompt: list[int], tokens: list[int]) -> Tensor:
    """[TOKENS, V]: the logits that each token is sampled from, with nothing beside them and no padding."""
    ids = torch.tensor([prompt + tokens], device=inner.device)
    return own_forward(inner)(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]


def _together(inner: Any, prompts: list[list[int]], tokens: list[list[int]]) -> list[Tensor]:
    """The same for all rows, out of the fast loop; the last ones missing for the row that is dropped."""
    with packed_attention(inner, KERNEL):
        engine = Engine(inner)
        cache, first_logits = engine.prefill(prompts, [PROMPT_OF_ROW.count(number) for number in range(len(prompts))])
        logits_of_rows = [[row_logits] for row_logits in first_logits]
        rows = list(range(len(PROMPT_OF_ROW)))
        for length in range(TOKENS - 1):
            if length == DROPPED_AFTER:
                rows = cache.keep([row for row in rows if row != DROPPED])
            (logits,) = engine.step([cache], [tokens[row][length] for row in rows])
            for row, row_logits in zip(rows, logits, strict=True):
                logits_of_rows[row].append(row_logits)
    return [torch.stack(row_logits) for row_logits in logits_of_rows]


def _deviation(rows: list[Tensor], expected: list[Tensor]) -> float:
    """The largest relative difference of two vectors of logits, infinite where one is not a number."""
    worst = 0.0
    for row, expected_row in zip(rows, expected, strict=True):
        x, y = row.double(), expected_row[: len(row)].double()
        relative = (x - y).norm(dim=-1) / y.norm(dim=-1).clamp(min=1e-12)
        worst = max(worst, float(relative.nan_to_num(torch.inf).max()))
    return worst

"""Scores of a classification model by its own forward pass: for models whose head reads other than the last token.

Decoders apply the head to each token and take the last. Encoders such as BERT take the first token, or a mean, through
layers of their own. Which of the two a model does is tried on the model itself, as no list of families stays complete.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from .heads import reward_head_of, several_labels
from .wrappers import own_forward, patched_forward

LAST = "last token"
WHOLE = "own forward"


def find_reading(inner: Any, device: torch.device, tolerance: float) -> str:
    """Where the scores of a model come from: `LAST`, the head on the last token's hidden state, or `WHOLE`.

    Args:
        inner: a classification model without its wrappers, in evaluation mode.
        device: where its inputs go.
        tolerance: how far two scores of one text may lie apart, relative to the larger.

    Raises:
        ValueError: the model does not give one number to a text.
    """
    name, readings = type(inner).__name__, set()
    for ids in _texts(inner, device):
        with _head_in_own_dtype(inner) as of_head:
            try:
                logits = own_forward(inner)(input_ids=ids).logits
            except Exception as error:
                raise ValueError(f"{name} cannot score a text: {type(error).__name__}: {error}") from error
        if logits.shape != (1, 1):
            raise ValueError(several_labels(name, _count(logits)))
        by_token = of_head[-1] if len(of_head) == 1 else logits
        same = by_token.shape == (1, ids.shape[1], 1) and _close(by_token[0, -1], logits[0], tolerance)
        readings.add(LAST if same else WHOLE)
    return LAST if readings == {LAST} else WHOLE


def _count(logits: Tensor) -> str:
    return str(logits.shape[-1]) if logits.dim() == 2 else "x".join(map(str, logits.shape[1:]))


def _texts(inner: Any, device: torch.device) -> Iterator[Tensor]:
    """Random texts without the tokens that families look for: pad, beginning and end."""
    config = inner.config.get_text_config()
    special = {getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos", "cls", "sep")}
    rng, ordinary = random.Random(0), [i for i in range(min(config.vocab_size, 1000)) if i not in special]
    for length in (5, 9):
        yield torch.tensor([[rng.choice(ordinary) for _ in range(length)]], device=device)


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    if not other.isfinite().all():  # what is not a number is named where scores are asked for
        return True
    return bool((one - other).abs().max() <= tolerance * other.abs().max().clamp(min=1e-6))


@contextmanager
def _head_in_own_dtype(inner: Any) -> Iterator[list[Tensor]]:
    """The reward head computes in its own dtype, never under autocast; what it gave is in the list afterwards."""
    head, given = reward_head_of(inner), []
    forward: Callable[..., Tensor] = own_forward(head)
    dtype = next(head.parameters()).dtype

    def compute(states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            given.append(forward(states.to(dtype), *args, **kwargs))
        return given[-1]

    with patched_forward(head, compute):
        yield given


def whole_scores(inner: Any, batch: Batch) -> Tensor:
    """The scores of a batch by the model's own forward on rows padded at the right: [G, K], 0 where none is present.

    Some families count positions from the ids that are not pad, so the padding is the model's own pad token.
    """
    ids, mask = _rows(batch)
    pad = getattr(inner.config.get_text_config(), "pad_token_id", None) or 0
    with _head_in_own_dtype(inner):
        logits = own_forward(inner)(input_ids=ids.masked_fill(~mask, pad), attention_mask=mask.long()).logits
    scores = logits[:, 0].to(torch.promote_types(logits.dtype, torch.float32))
    return scores.view(batch.present.shape).masked_fill(~batch.present, 0.0)


def _rows(batch: Batch) -> tuple[Tensor, Tensor]:
    """Prompt and response of every place as a row without gaps, at the left: ids and mask, [G*K, L]."""
    count = batch.response_ids.shape[1]
    ids = torch.cat([batch.prompt_ids.repeat_interleave(count, 0), batch.response_ids.flatten(0, 1)], 1)
    mask = torch.cat([batch.prompt_mask.repeat_interleave(count, 0), batch.response_mask.flatten(0, 1)], 1)
    mask = mask & batch.present.flatten()[:, None]
    order = mask.int().argsort(dim=1, descending=True, stable=True)
    width = max(1, int(mask.sum(1).max()))
    ids, mask = ids.gather(1, order)[:, :width], mask.gather(1, order)[:, :width]
    absent = ~mask.any(1)
    mask[:, 0] |= absent  # attention over no key at all is NaN
    return ids, mask

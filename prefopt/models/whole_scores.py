"""Scores of a classification model by its own forward pass: for models whose head reads other than the last token.

Decoders apply the head to the backbone's state at the last token. Encoders such as BERT take the first token, or a
mean, through layers of their own, and some of them tell padding from text badly or not at all. What a model does is
tried on the model itself, as no list of families stays complete: its own forward pass on each text alone is right, and
everything that is faster has to give the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from ..batch import Batch
from ..data.collate import collate
from .embedding_noise import noise_by_length
from .heads import reward_head_of, score, several_labels
from .layout import padded
from .rope_lengths import forget_lengths
from .wrappers import own_forward, patched_forward

LAST = "last token"
"""The head on the backbone's state at the last token, in whatever layout."""
WHOLE = "own forward"
"""The model's own forward pass on padded rows."""
ALONE = "own forward without padding"
"""The model's own forward pass on rows of one length at a time."""
STRICT = 0.03
"""The most that padding may change a score in half precision: running rows without it is never wrong."""


def find_reading(inner: Any, device: torch.device, tolerance: float) -> str:
    """Where the scores of a model come from: `LAST`, `WHOLE` or `ALONE`, the first that gives what the model gives.

    What is compared are scores of texts in one batch with those of the model's own forward pass on each text alone.

    Args:
        inner: a classification model without its wrappers, and with no dropout.
        device: where its inputs go.
        tolerance: how far two scores of one text may lie apart, relative to the largest.

    Raises:
        ValueError: the model does not give one number to a text.
    """
    batch, strict = _texts(inner, device), min(tolerance, STRICT)
    with _computing_head(inner, _random_readout):
        expected = _alone(inner, batch)
        for reading, scores_of, allowed in ((LAST, _last_scores, tolerance), (WHOLE, whole_scores, strict)):
            try:
                found = scores_of(inner, batch).flatten()
            except Exception:  # whatever a model does with arguments that are new to it, its own forward is left
                continue
            if _agree(found, expected, allowed):
                return reading
    if isinstance(inner, FSDPModule) or any(hasattr(p, "ds_id") for p in inner.parameters()):
        raise ValueError(
            f"{type(inner).__name__} gives a text another score when padding is beside it, so each length runs by "
            "itself, and processes that share weights (FSDP, ZeRO-3) would wait for each other: train it on one GPU"
        )
    return ALONE


def _alone(inner: Any, batch: Batch) -> Tensor:
    """What the model's own forward pass gives to each text by itself."""
    ids, mask = _rows(batch)
    return torch.cat([_logits(inner, row[None, held]) for row, held in zip(ids, mask, strict=True)])


def _logits(inner: Any, ids: Tensor) -> Tensor:
    name = type(inner).__name__
    try:
        logits = own_forward(inner)(input_ids=ids).logits
    except Exception as error:
        raise ValueError(f"{name} cannot score a text: {type(error).__name__}: {error}") from error
    if logits.shape != (1, 1):
        raise ValueError(several_labels(name, _count(logits)))
    return logits[0]


def _count(logits: Tensor) -> str:
    return str(logits.shape[-1]) if logits.dim() == 2 else "x".join(map(str, logits.shape[1:]))


def _texts(inner: Any, device: torch.device) -> Batch:
    """Random texts of several lengths, without the tokens that families look for: pad, beginning and end."""
    config = inner.config.get_text_config()
    special = {getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos", "cls", "sep")}
    size = min(getattr(config, "vocab_size", 1000), 1000)
    rng, ordinary = random.Random(0), [i for i in range(size) if i not in special]

    def ids(count: int) -> list[int]:
        return [rng.choice(ordinary) for _ in range(count)]

    rows = [
        {"prompt_ids": ids(5), "response_ids": [ids(7), ids(3)]},
        {"prompt_ids": ids(9), "response_ids": [ids(2), ids(6)]},
    ]
    return collate(rows).to(device)


def _last_scores(inner: Any, batch: Batch) -> Tensor:
    layout = padded(batch)
    states = inner.base_model(**layout.inputs, use_cache=False)[0].flatten(0, 1)
    return score(reward_head_of(inner), states[layout.last[batch.present]])


def _agree(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether scores are the same; not where all expected ones are alike, as of a head of zeros, which shows nothing.

    Where much is tolerated one text may differ by more: it chose other experts. What is not a number is named
    where scores are asked for.
    """
    if not expected.isfinite().all():
        return not found.isfinite().all()
    differences = (found.float() - expected.float()).abs() / expected.float().abs().max().clamp(min=1e-12)
    deviation = differences.max() if tolerance <= STRICT else differences.sort().values[-2]
    return bool(expected.float().std() > 0) and bool(deviation <= tolerance)


def _random_readout(states: Tensor, given: Tensor) -> Tensor:
    """A head's output with random numbers read off its input, where there is one for each: a new head may be zero."""
    if given.shape != (*states.shape[:-1], 1):
        return given
    weights = torch.randn(states.shape[-1], generator=torch.Generator().manual_seed(0)) / states.shape[-1] ** 0.5
    return given + (states.to(given.dtype) @ weights.to(given))[..., None]


@contextmanager
def _computing_head(inner: Any, change: Callable[[Tensor, Tensor], Tensor] | None = None) -> Iterator[None]:
    """The reward head computes in its own dtype inside the block, never under autocast.

    Args:
        change: makes another output of the head's input and output.
    """
    head: nn.Module = reward_head_of(inner)
    forward, dtype = own_forward(head), next(head.parameters()).dtype

    def compute(states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            given = forward(states.to(dtype), *args, **kwargs)
            return given if change is None else change(states, given)

    with patched_forward(head, compute):
        yield


def whole_scores(inner: Any, batch: Batch, *, alone: bool = False) -> Tensor:
    """The scores of a batch by the model's own forward on rows padded at the right: [G, K], 0 where none is present.

    Some families count positions from the ids that are not pad, so the padding is the model's own pad token.

    Args:
        inner: a classification model without its wrappers.
        alone: run rows of one length at a time, without padding.
    """
    ids, mask = _rows(batch)
    pad = getattr(inner.config.get_text_config(), "pad_token_id", None) or 0
    ids = ids.masked_fill(~mask, pad)
    lengths = mask.sum(1)
    order = lengths.argsort(stable=True) if alone else torch.arange(len(ids), device=ids.device)
    counts = lengths.unique(return_counts=True)[1].tolist() if alone else [len(ids)]
    with _computing_head(inner):
        parts = [_run(inner, ids[part], mask[part]) for part in order.split(counts)]
    scores = torch.cat(parts)[order.argsort()]
    return scores.view(batch.present.shape).masked_fill(~batch.present, 0.0)


def _run(inner: Any, ids: Tensor, mask: Tensor) -> Tensor:
    lengths = mask.sum(1, keepdim=True)
    width = int(lengths.max())
    forget_lengths(inner)
    with noise_by_length(inner, lambda: lengths):
        logits = own_forward(inner)(input_ids=ids[:, :width], attention_mask=mask[:, :width].long()).logits
    return logits[:, 0].to(torch.promote_types(logits.dtype, torch.float32))


def _rows(batch: Batch) -> tuple[Tensor, Tensor]:
    """Prompt and response of every place as a row without gaps, at the left: ids and mask, [G*K, L]."""
    count = batch.response_ids.shape[1]
    ids = torch.cat([batch.prompt_ids.repeat_interleave(count, 0), batch.response_ids.flatten(0, 1)], 1)
    mask = torch.cat([batch.prompt_mask.repeat_interleave(count, 0), batch.response_mask.flatten(0, 1)], 1)
    mask = mask & batch.present.flatten()[:, None]
    order = mask.int().argsort(dim=1, descending=True, stable=True)
    ids, mask = ids.gather(1, order), mask.gather(1, order)
    mask[:, 0] |= ~mask.any(1)  # attention over no key at all is NaN
    return ids, mask

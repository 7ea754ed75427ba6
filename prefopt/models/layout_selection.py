"""Decides on which layout a model runs, padded or packed rows: by a compatibility check of the model, or on request.

Layers that carry something from token to token other than attention (convolutions, recurrences) or that count positions
themselves would mix the sequences of a packed row without an error. No list of families stays complete, so the check
runs two short groups through both layouts, and a model that does not say the same of both runs on padded rows. What
padded rows give has to be what each row gives alone, or the model is none whose log-probs can be trained.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..data.collate import collate
from ..utils.renamed import renamed
from ._logits import Head
from .attention import KERNELS, Rule, Unsupported, packed_attention
from .embedding_noise import noise_by_length
from .heads import is_scorer, language_heads
from .layout import Layout, packed, padded
from .modes import without_dropout
from .rope_lengths import forget_lengths, length_rules
from .whole_scores import ALONE, LAST, find_reading

logger = logging.getLogger(__name__)

PADDED = "padded"
LAYOUTS = ("auto", PADDED, *KERNELS)
"""What the option `layout` takes: "auto" checks the model, "padded" is for any model, the rest are packed rows by their
attention kernel."""


@dataclass(frozen=True)
class LayoutSelection:
    """How a model is run.

    Args:
        layout: "padded", or the attention kernel of packed rows.
        heads: names in `language_heads` of those that give the logits that the model itself gives.
        reading: where scores come from, see `whole_scores.py`; of a policy it says nothing.
    """

    layout: str
    heads: frozenset[str]
    reading: str = LAST


UNLIKE_ALONE = 0.1
"""By how much hidden states on padded rows may differ, relatively, from those of a row alone, in any precision."""

_requested: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_selected: WeakKeyDictionary[nn.Module, LayoutSelection] = WeakKeyDictionary()
_logged: set[str] = set()


def request_layout(inner: nn.Module, layout: str = "auto") -> None:
    """Ask for a layout of this model from now on.

    Args:
        inner: the model without its wrappers.
        layout: one of `LAYOUTS`.

    Raises:
        ValueError: no such layout. A model that cannot run on it raises in its first forward pass, and not here.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r}: choose one of {', '.join(LAYOUTS)}")
    _requested[inner] = layout
    _selected.pop(inner, None)


def select_layout(
    inner: nn.Module, device: torch.device, run_wrapped: Callable[[Callable[[], Any]], Any]
) -> LayoutSelection:
    """The layout of this model. The first call checks the model; the answer is kept.

    Args:
        inner: the model without its wrappers.
        device: where the model's inputs go.
        run_wrapped: runs a computation under the wrappers and returns its result, a dict.

    Raises:
        ValueError: the layout that was requested would be wrong for this model, or the model is no causal one.
    """
    if inner not in _selected:
        with torch.no_grad(), without_dropout(inner), torch.random.fork_rng(_cuda_devices(inner)):
            _selected[inner] = run_wrapped(lambda: {"selection": _check(inner, device)})["selection"]
    return _selected[inner]


def _cuda_devices(model: nn.Module) -> list[torch.device]:
    return list({p.device for p in model.parameters() if p.device.type == "cuda"})


def run_on_layout(inner: nn.Module, part: Any, layout: Layout, kernel: str) -> Tensor:
    """Run a part of a model on a batch that lies in a layout.

    Args:
        inner: the model without its wrappers.
        part: what to call: the model, its forward, or its backbone.
        kernel: the attention kernel, where the layout is packed.

    Returns:
        The hidden states of the backbone, the logits of a whole model: [B, T, H or V].
    """
    forget_lengths(inner)
    with noise_by_length(inner, lambda: layout.sequence_lengths):
        if layout.packing is None:
            output = part(**layout.inputs, use_cache=False)
        else:
            with packed_attention(inner, kernel):
                output = part(**layout.inputs, use_cache=False, layout=layout)
    logits = getattr(output, "logits", None)  # not first where a model of experts gives its balancing loss too
    return output[0] if logits is None else logits


def backbone(inner: Any) -> Any | None:
    """The part of a model below its head, None where transformers' name for it leads back to the model."""
    return None if inner.base_model is inner else inner.base_model


# ---- the compatibility check ---------------------------------------------------------------------------------------


def _check(inner: Any, device: torch.device) -> LayoutSelection:
    requested, name = _requested.get(inner, "auto"), type(inner).__name__
    with torch.autocast(device.type, enabled=False):
        reading = find_reading(inner, device, _rounding(inner)) if is_scorer(inner) else LAST
        if reading != LAST:
            return _whole(name, reading, requested)
        batch = _two_groups(inner.config.get_text_config().vocab_size, device)
        heads = frozenset({"own"}) if is_scorer(inner) else _matching_heads(inner, padded(batch))
        if not is_scorer(inner):
            _check_causal(inner, batch)
        if requested == PADDED:
            return LayoutSelection(PADDED, heads)
        kernel = requested if requested in KERNELS else "segments"
        reason = _reason_against_packing(inner, kernel, batch)
    if not heads:
        _log_once(logging.WARNING, f"{name} computes the logits of all tokens: its head is none that is known here")
    if reason is None:
        _log_once(logging.INFO, f"{name} runs on packed rows with shared prompts (attention: {kernel})")
        return LayoutSelection(kernel, heads)
    if requested == kernel:
        raise ValueError(f"layout={kernel!r} would be wrong for {name}: {reason}. Leave layout at 'auto'")
    _log_once(logging.WARNING, f"{name} runs on padded rows, which is slower: {reason}")
    return LayoutSelection(PADDED, heads)


def _check_causal(inner: Any, batch: Batch) -> None:
    """Check that each row gives on padded rows what it gives alone, up to the token before its last.

    It does not where a token sees those that follow it, or where the model takes other position ids than 0, 1, 2.

    Raises:
        ValueError: it does not. In half precision, where rounding adds up in experts, a warning says so instead.
    """
    part = backbone(inner) or inner.forward
    layout = padded(batch)
    padded_rows = run_on_layout(inner, part, layout, PADDED)
    if not padded_rows.isfinite().all():
        return  # said where packed rows are tried
    difference = 0.0
    lengths = layout.inputs["attention_mask"].sum(1).tolist()
    for ids, states, length in zip(layout.inputs["input_ids"], padded_rows, lengths, strict=True):
        # Where frequencies depend on the length of a row, it keeps its last token.
        alone = ids[None, : length if length_rules(inner) else length - 1]
        row = replace(layout, inputs={"input_ids": alone, "attention_mask": torch.ones_like(alone)})
        expected = run_on_layout(inner, part, row, PADDED)[0]
        difference = max(difference, _deviation(states[: len(expected)], expected))
    if difference <= UNLIKE_ALONE:
        return
    reason = (
        f"{type(inner).__name__} gives other hidden states for a row alone than for the row with one more token and "
        f"padding after it (by {difference:.1e}): it is not a causal language model, such as an encoder that was not "
        "loaded with is_decoder=True, or counts positions in its own way, and its log-probs would be wrong"
    )
    if _has_full_precision(inner):
        raise ValueError(f"{reason}. Take a causal language model")
    _log_once(logging.WARNING, reason)


def _whole(name: str, reading: str, requested: str) -> LayoutSelection:
    """How a model runs that scores by its own forward pass."""
    if requested in KERNELS:
        raise ValueError(
            f"layout={requested!r} would be wrong for {name}: it scores a text by its own forward pass, "
            "as encoders do. Leave layout at 'auto'"
        )
    if reading == ALONE:
        _log_once(logging.WARNING, f"{name} scores rows of one length at a time, which is slower: padding changes them")
    else:
        _log_once(logging.INFO, f"{name} scores by its own forward pass, on padded rows")
    return LayoutSelection(PADDED, frozenset(), reading)


def _log_once(level: int, message: str) -> None:
    if message not in _logged:
        _logged.add(message)
        logger.log(level, message)


def _reason_against_packing(inner: Any, kernel: str, batch: Batch) -> str | None:
    """Why packed rows do not give what padded rows give, or None if they do."""
    mask = batch.response_mask
    ids = batch.response_ids.clone()
    ids[0, 0] = (ids[0, 0] + 1) % inner.config.get_text_config().vocab_size
    other_responses = torch.ones_like(mask)
    other_responses[0, 0] = False

    def states(layout: Layout) -> Tensor:
        output = run_on_layout(inner, backbone(inner) or inner.forward, layout, kernel)
        return output.flatten(0, 1)[layout.before[mask]]

    on_padded = states(padded(batch))
    if not on_padded.isfinite().all():
        return "its hidden states are not finite, so nothing can be compared"
    try:
        on_packed = states(packed(batch, whole=True))
        first_changed = states(packed(batch.with_columns(response_ids=ids), whole=True))
    except Exception as error:  # whatever a model does with arguments that are new to it, padded rows still work
        return _reason_in(error)
    others = other_responses[mask]
    leak, difference = _deviation(first_changed[others], on_packed[others]), _deviation(on_packed, on_padded)
    if leak > _allowed_leak(inner):
        return f"on packed rows one response changes the hidden states of another (by {leak:.1e})"
    return None if difference <= _rounding(inner) else f"on packed rows its hidden states differ by {difference:.1e}"


def _reason_in(error: Exception) -> str:
    if isinstance(error, Unsupported) or Rule.__name__ in str(error):  # it took the rule for a tensor
        return f"it does not leave its attention mask to transformers ({error})".splitlines()[0]
    return f"on packed rows it fails with {type(error).__name__}: {error}".splitlines()[0]


def _matching_heads(inner: Any, layout: Layout) -> frozenset[str]:
    """Which of `language_heads` give the logits that the model gives: families scale, cap and shift them."""
    part = backbone(inner)
    if part is None:
        return frozenset()
    logits = run_on_layout(inner, inner.forward, layout, PADDED).flatten(0, 1)
    states = run_on_layout(inner, part, layout, PADDED).flatten(0, 1)

    def matches(head: Head) -> bool:
        try:
            return _deviation(head(states), logits) <= _rounding(inner)
        except Exception:  # a layer between backbone and head, say: another width
            return False

    return frozenset(name for name, head in language_heads(inner).items() if matches(head))


def _rounding(inner: nn.Module) -> float:
    """By how much two layouts may differ, relative to the hidden states: rounding, which adds up over layers."""
    return 1e-4 if _has_full_precision(inner) else 0.1


def _allowed_leak(inner: Any) -> float:
    """By how much a response may change with another response of its packed row.

    Row by row the same numbers are computed, whatever other rows hold: bit for bit. Except where what one row is
    multiplied with depends on the others: experts take together the rows that chose them, and 8-bit layers choose by
    all rows which columns they round.
    """
    config = inner.config.get_text_config().to_dict()
    experts = any("expert" in name and isinstance(n, int) and n > 1 for name, n in config.items())
    return _rounding(inner) / 2 if experts or getattr(inner, "is_loaded_in_8bit", False) else 0.0


def _has_full_precision(inner: nn.Module) -> bool:
    return all(p.dtype in (torch.float32, torch.float64) for p in inner.parameters())


def _deviation(vectors: Tensor, expected: Tensor) -> float:
    """The largest relative difference between rows, infinite where one is not a number. Both: [n, H]"""
    vectors, expected = vectors.float(), expected.float()
    differences = (vectors - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-12)
    return float(differences.nan_to_num(torch.inf).max())


def _two_groups(vocab: int, device: torch.device) -> Batch:
    """Two prompts of different lengths with two responses each, of random tokens."""
    rng = random.Random(0)

    def ids(count: int) -> list[int]:
        return [rng.randrange(vocab) for _ in range(count)]

    rows = [
        {"prompt_ids": ids(5), "response_ids": [ids(7), ids(3)]},
        {"prompt_ids": ids(9), "response_ids": [ids(2), ids(6)]},
    ]
    return Batch({name: column.to(device) for name, column in collate(rows).items()})


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"choose": "request_layout", "Choice": "LayoutSelection"})

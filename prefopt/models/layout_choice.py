"""Which layout a model runs on: decided by trying it on that very model, once, or by whoever asks for one.

Layers that carry something from token to token other than attention (convolutions, recurrences) or that count positions
themselves would mix the sequences of a packed row without an error. No list of families stays complete, so two short
groups go through both layouts, and only a model that says the same of both is packed.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..data.collate import collate
from .attention import KERNELS, Rule, Unsupported, packed_attention
from .heads import is_scorer, language_heads
from .layout import Layout, packed, padded
from .logits import Head
from .modes import without_dropout

logger = logging.getLogger(__name__)

PADDED = "padded"
LAYOUTS = ("auto", PADDED, *KERNELS)


@dataclass(frozen=True)
class Choice:
    """`layout` is "padded" or a kernel of the packed layout; `heads` are those that give the model's own logits."""

    layout: str
    heads: frozenset[str]


_asked: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_chosen: WeakKeyDictionary[nn.Module, Choice] = WeakKeyDictionary()
_said: set[str] = set()


def choose(inner: nn.Module, layout: str = "auto") -> None:
    """Ask for a layout of `LAYOUTS` for this model (without its wrappers) from now on.

    Raises:
        ValueError: no such layout. That a model cannot run on it is an error of the first forward.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r}: choose one of {', '.join(LAYOUTS)}")
    _asked[inner] = layout
    _chosen.pop(inner, None)


def chosen(inner: nn.Module, device: torch.device, within: Callable[[Callable[[], Any]], Any]) -> Choice:
    """The model's choice, made on the first call.

    Args:
        inner: the model without its wrappers.
        device: where its inputs go.
        within: runs a computation inside the wrappers.
    """
    if inner not in _chosen:
        with torch.no_grad(), without_dropout(inner), torch.random.fork_rng(_cuda(inner)):
            _chosen[inner] = within(lambda: {"choice": _decide(inner, device)})["choice"]
    return _chosen[inner]


def _cuda(model: nn.Module) -> list[torch.device]:
    return list({p.device for p in model.parameters() if p.device.type == "cuda"})


def run(inner: nn.Module, part: Any, layout: Layout, kernel: str) -> Any:
    """What `part` of the model (itself or its backbone) returns for a batch on a layout."""
    if layout.packing is None:
        return part(**layout.inputs, use_cache=False)
    with packed_attention(inner, kernel):
        return part(**layout.inputs, use_cache=False, layout=layout)


def backbone(inner: Any) -> Any | None:
    """The part of a model below its head, None where transformers' name for it leads back to the model."""
    return None if inner.base_model is inner else inner.base_model


def _decide(inner: Any, device: torch.device) -> Choice:
    asked, name = _asked.get(inner, "auto"), type(inner).__name__
    batch = _two_groups(inner.config.get_text_config().vocab_size, device)
    with torch.autocast(device.type, enabled=False):
        heads = frozenset({"own"}) if is_scorer(inner) else _right_heads(inner, padded(batch))
        if asked == PADDED:
            return Choice(PADDED, heads)
        kernel = asked if asked in KERNELS else "segments"
        reason = _mismatch(inner, kernel, batch)
    if not heads:
        _say(logging.WARNING, f"{name} computes the logits of all tokens: its head is none that is known here")
    if reason is None:
        _say(logging.INFO, f"{name} runs on packed rows with shared prompts (attention: {kernel})")
        return Choice(kernel, heads)
    if asked == kernel:
        raise ValueError(f"layout={kernel!r} would be wrong for {name}: {reason}. Leave layout at 'auto'")
    _say(logging.WARNING, f"{name} runs on padded rows, which is slower: {reason}")
    return Choice(PADDED, heads)


def _say(level: int, message: str) -> None:
    if message not in _said:
        _said.add(message)
        logger.log(level, message)


def _mismatch(inner: Any, kernel: str, batch: Batch) -> str | None:
    """Why packed rows do not give what padded rows give, or None if they do."""
    mask = batch.response_mask
    ids = batch.response_ids.clone()
    ids[0, 0] = (ids[0, 0] + 1) % inner.config.get_text_config().vocab_size
    others = torch.ones_like(mask)
    others[0, 0] = False

    def read(layout: Layout) -> Tensor:
        return run(inner, backbone(inner) or inner.forward, layout, kernel)[0].flatten(0, 1)[layout.before[mask]]

    expected = read(padded(batch))
    if not expected.isfinite().all():
        return "its hidden states are not finite, so nothing can be compared"
    try:
        found = read(packed(batch, whole=True))
        other = read(packed(batch.with_columns(response_ids=ids), whole=True))
    except Exception as error:  # whatever a model does with arguments that are new to it, padded rows still work
        return _reason(error)
    leak, wrong = _deviation(other[others[mask]], found[others[mask]]), _deviation(found, expected)
    if leak > _leak_allowed(inner):
        return f"on packed rows one response changes the hidden states of another (by {leak:.1e})"
    return None if wrong <= _rounding(inner) else f"on packed rows its hidden states differ by {wrong:.1e}"


def _reason(error: Exception) -> str:
    if isinstance(error, Unsupported) or Rule.__name__ in str(error):  # it took the rule for a tensor
        return f"it does not leave its attention mask to transformers ({error})".splitlines()[0]
    return f"on packed rows it fails with {type(error).__name__}: {error}".splitlines()[0]


def _right_heads(inner: Any, layout: Layout) -> frozenset[str]:
    """Which heads give the logits that the model gives: families scale, cap and shift them."""
    part = backbone(inner)
    if part is None:
        return frozenset()
    expected = run(inner, inner.forward, layout, PADDED)[0].flatten(0, 1)
    hidden = run(inner, part, layout, PADDED)[0].flatten(0, 1)

    def is_right(head: Head) -> bool:
        try:
            return _deviation(head(hidden), expected) <= _rounding(inner)
        except Exception:  # a layer between backbone and head, say: another width
            return False

    return frozenset(name for name, head in language_heads(inner).items() if is_right(head))


def _rounding(inner: nn.Module) -> float:
    """By how much two layouts may differ, relative to the hidden states: rounding, which adds up over layers."""
    return 1e-4 if _is_wide(inner) else 0.1


def _leak_allowed(inner: Any) -> float:
    """Row by row the same numbers are computed, whatever stands in other rows: bit for bit.

    Except where what one row is multiplied with depends on the others: experts take together the rows that chose them,
    and 8-bit layers choose by all rows which columns they round.
    """
    config = inner.config.get_text_config().to_dict()
    experts = any("expert" in name and isinstance(n, int) and n > 1 for name, n in config.items())
    return _rounding(inner) / 2 if experts or getattr(inner, "is_loaded_in_8bit", False) else 0.0


def _is_wide(inner: nn.Module) -> bool:
    return all(p.dtype in (torch.float32, torch.float64) for p in inner.parameters())


def _deviation(found: Tensor, expected: Tensor) -> float:
    """The largest relative difference of two vectors out of [n, H], infinite where one is not a number."""
    found, expected = found.float(), expected.float()
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-12)).nan_to_num(torch.inf).max())


def _two_groups(vocab: int, device: torch.device) -> Batch:
    rng = random.Random(0)

    def ids(count: int) -> list[int]:
        return [rng.randrange(vocab) for _ in range(count)]

    rows = [
        {"prompt_ids": ids(5), "response_ids": [ids(7), ids(3)]},
        {"prompt_ids": ids(9), "response_ids": [ids(2), ids(6)]},
    ]
    return Batch({name: column.to(device) for name, column in collate(rows).items()})

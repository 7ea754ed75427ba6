"""The only door to what a model says: `Batch` in, `Outputs` out.

The physical layout (padded or packed rows, the shift by one, which hidden states are read) stays behind this door: an
objective never sees a logit, a label or a shift.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch, Outputs
from ..utils.flop_counter import listening
from .auxiliary import CRITIC
from .checkpointed_layers import Setting, throughout
from .critic import critic_of
from .flops import count_forward
from .heads import is_scorer, language_heads, reward_head_of
from .layout import packed, padded, predictable
from .layout_choice import PADDED, Choice, chosen, run
from .logits import FROM_LOGITS, Head, token_outputs
from .peft_adapters import adapter_layers, switched
from .shared_critic import SharedCritic
from .unwrap import bare, inside

FROM_HEAD = frozenset({"scores", "values"})


def forward(model: nn.Module, batch: Batch, wants: frozenset[str]) -> Outputs:
    """Run `model`, possibly wrapped (DDP, FSDP, PEFT, compiled), and return the fields of `Outputs` that `wants` names.

    Log-probs and what derives from them come from a language-model head, values and scores from a reward head: the
    model's own, or for values that of the critic beside it, which runs in the same call. Nothing runs that is not
    asked for. All are computed in at least float32, whatever the backbone's dtype. The first call for a model also
    decides on which layout it runs, see `choice.py`.

    Raises:
        ValueError: an unknown field, or a model without the head that a field comes from.
    """
    unknown = wants - FROM_LOGITS - FROM_HEAD
    if unknown:
        raise ValueError(f"unknown outputs {sorted(unknown)}; a model can give {sorted(FROM_LOGITS | FROM_HEAD)}")
    inner, device = bare(model), batch.prompt_ids.device
    readings = _readings(inner, wants)  # raises before anything is computed

    def within(compute: Callable[[], Any]) -> Any:
        return inside(model, inner, compute)

    choices = [chosen(reading.inner, device, within) for reading in readings]

    def compute() -> dict[str, Tensor]:
        return {k: v for r, choice in zip(readings, choices, strict=True) for k, v in _read(r, batch, choice).items()}

    return Outputs(**within(compute))


@dataclass(frozen=True)
class _Reading:
    """Which model to run, which outputs to read off it, by which reward head, and under what."""

    inner: Any
    wants: frozenset[str]
    head: nn.Module | None
    setting: Setting = nullcontext


def _readings(inner: nn.Module, wants: frozenset[str]) -> list[_Reading]:
    """Values come from the critic, where one is beside the model; the rest, if anything, from the model itself."""
    critic = None if is_scorer(inner) else critic_of(inner)
    own = wants if critic is None else wants - {"values"}
    found = []
    if own:
        found.append(_Reading(inner, own, reward_head_of(inner) if own & FROM_HEAD else None))
    if own != wants and critic is not None:
        found.append(_reading_of(inner, critic, wants - own))
    return found


def _reading_of(inner: nn.Module, critic: nn.Module, wants: frozenset[str]) -> _Reading:
    if isinstance(critic, SharedCritic):
        return _Reading(inner, wants, critic.head, partial(switched, adapter_layers(inner), CRITIC))
    return _Reading(bare(critic), wants, reward_head_of(bare(critic)))


def _read(reading: _Reading, batch: Batch, choice: Choice) -> dict[str, Tensor]:
    with throughout(reading.inner, reading.setting):
        return _outputs(reading.inner, batch, reading.wants, choice, reading.head)


def _outputs(
    inner: Any, batch: Batch, wants: frozenset[str], choice: Choice, reward_head: nn.Module | None
) -> dict[str, Tensor]:
    layout = padded(batch) if choice.layout == PADDED else packed(batch, whole="scores" in wants)
    part, head = _parts(inner, wants, choice)
    states = run(inner, part, layout, choice.layout)[0].flatten(0, 1)
    mask, found = predictable(batch), {}
    read = states[layout.before[mask]] if wants - {"scores"} else states
    if listening():
        logits = len(read if choice.heads else states) if wants & FROM_LOGITS else 0
        rewards = len(read) * ("values" in wants) + int(batch.present.sum()) * ("scores" in wants)
        count_forward(inner, layout.inputs["position_ids"], logits, rewards, reward_head)
    if wants & FROM_LOGITS:
        vocab = inner.config.get_text_config().vocab_size
        found = token_outputs(head, read, batch.response_ids[mask], vocab, wants & FROM_LOGITS)
    if "values" in wants:
        found["values"] = _score(reward_head, read)
    spread = {name: _spread(values, mask) for name, values in found.items()}
    if "scores" in wants:
        # Pool by our own mask: transformers pools by token id and reads one token early when pad is eos.
        spread["scores"] = _spread(_score(reward_head, states[layout.last[batch.present]]), batch.present)
    return spread


def _parts(inner: Any, wants: frozenset[str], choice: Choice) -> tuple[Callable[..., Any], Head]:
    """What to run on the layout, and what turns the states that come out of it into logits."""
    if not wants & FROM_LOGITS:
        return inner.base_model, _as_they_are
    for name, head in language_heads(inner).items():
        if name in choice.heads:
            return inner.base_model, head
    return inner.forward, _as_they_are  # no known head: the whole model, whose states are its logits


def _as_they_are(states: Tensor) -> Tensor:
    return states


def _score(head: Any, hidden: Tensor) -> Tensor:
    """The reward head in its own dtype, never under autocast: [n, H] -> [n]."""
    with torch.autocast(hidden.device.type, enabled=False):
        return head(hidden.to(next(head.parameters()).dtype)).squeeze(-1)


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """One value for each place where `mask` holds -> the shape of `mask`, 0 elsewhere."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)

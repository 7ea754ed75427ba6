"""The one place where a model is run on a batch: `forward` takes a `Batch` and returns `Outputs`, such as log-probs.

The physical layout (padded or packed rows, the shift by one, which hidden states are read) stays behind this function:
an objective never sees a logit, a label or a shift. Whether a model runs packed is decided in `layout_selection.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..batch import Batch, Outputs
from ..utils.flop_counter import is_counting
from ._activation_checkpointing import MakeContext, checkpointed_context
from ._logits import FROM_LOGITS, Head, token_outputs
from .auxiliary import CRITIC
from .critic import critic_of
from .embedding_noise import has_noise
from .flops import count_forward
from .heads import is_scorer, language_heads, reward_head_of, score
from .layout import packed, padded, predictable
from .layout_selection import PADDED, LayoutSelection, run_on_layout, select_layout
from .peft_adapters import adapter_layers, layers_using_adapter
from .rope_lengths import length_rules, run_by_frequencies
from .shared_critic import SharedCritic
from .whole_scores import ALONE, LAST, whole_scores
from .wrappers import run_under_wrapper, unwrap

FROM_HEAD = frozenset({"scores", "values"})
"""The fields of `Outputs` that a reward head gives."""


def forward(model: nn.Module, batch: Batch, wants: frozenset[str]) -> Outputs:
    """Run a model on a batch.

    Log-probs and what derives from them come from a language-model head, values and scores from a reward head: the
    model's own, or for values that of its critic, which runs in the same call. Nothing runs that is not asked for. All
    are computed in at least float32, whatever the backbone's dtype. The first call for a model also selects its layout.

    Args:
        model: a policy or a reward model, possibly wrapped (DDP, FSDP, PEFT, compiled).
        batch: on the model's device.
        wants: names of fields of `Outputs`.

    Returns:
        The fields that `wants` names; the others are None.

    Raises:
        ValueError: an unknown field, a model without the head that a field comes from, or a layout that was requested
            and would be wrong.
    """
    unknown = wants - FROM_LOGITS - FROM_HEAD
    if unknown:
        raise ValueError(f"unknown outputs {sorted(unknown)}; a model can give {sorted(FROM_LOGITS | FROM_HEAD)}")
    inner, device = unwrap(model), batch.prompt_ids.device
    passes = _passes(inner, wants)  # raises before anything is computed

    def run_wrapped(model_pass: _Pass, compute: Callable[[], Any]) -> Any:
        return run_under_wrapper(model, inner, partial(model_pass.run_wrapped, compute))

    selections = [select_layout(each.inner, device, partial(run_wrapped, each)) for each in passes]

    def compute() -> dict[str, Tensor]:
        chosen = zip(passes, selections, strict=True)
        results = [each.run_wrapped(partial(_run, each, batch, selection)) for each, selection in chosen]
        return {name: column for result in results for name, column in result.items()}

    return Outputs(**run_under_wrapper(model, inner, compute))


@dataclass(frozen=True)
class _Pass:
    """One run of one model.

    Args:
        inner: the model without its wrappers.
        wants: which outputs to read off it.
        head: the reward head, for those that one gives.
        make_context: what the model runs in, such as another adapter.
        wrapper: what is around a model that is not the one that `forward` was given; FSDP may have weights there.
    """

    inner: Any
    wants: frozenset[str]
    head: nn.Module | None
    make_context: MakeContext = nullcontext
    wrapper: nn.Module | None = None

    def run_wrapped(self, compute: Callable[[], Any]) -> Any:
        return compute() if self.wrapper is None else run_under_wrapper(self.wrapper, self.inner, compute)


def _passes(inner: nn.Module, wants: frozenset[str]) -> list[_Pass]:
    """Values come from the critic, where the model has one; the rest, if anything, from the model itself."""
    critic = None if is_scorer(inner) else critic_of(inner)
    own = wants if critic is None else wants - {"values"}
    passes = []
    if own:
        passes.append(_Pass(inner, own, reward_head_of(inner) if own & FROM_HEAD else None))
    if own != wants and critic is not None:
        passes.append(_critic_pass(inner, critic, wants - own))
    return passes


def _critic_pass(inner: nn.Module, critic: nn.Module, wants: frozenset[str]) -> _Pass:
    if isinstance(critic, SharedCritic):
        return _Pass(inner, wants, critic.head, partial(layers_using_adapter, adapter_layers(inner), CRITIC))
    return _Pass(unwrap(critic), wants, reward_head_of(unwrap(critic)), wrapper=critic)


def _run(model_pass: _Pass, batch: Batch, selection: LayoutSelection) -> dict[str, Tensor]:
    inner = model_pass.inner

    def run(part: Batch) -> dict[str, Tensor]:
        return _outputs(inner, part, model_pass.wants, selection, model_pass.head)

    with checkpointed_context(inner, model_pass.make_context):
        return run_by_frequencies(inner, batch, run)


def _outputs(
    inner: Any, batch: Batch, wants: frozenset[str], selection: LayoutSelection, reward_head: nn.Module | None
) -> dict[str, Tensor]:
    if selection.reading != LAST:
        return {"scores": _scores_of_whole(inner, batch, wants, selection, reward_head)}
    whole = "scores" in wants or has_noise(inner) or bool(length_rules(inner))
    layout = padded(batch) if selection.layout == PADDED else packed(batch, whole=whole)
    part, head = _parts(inner, wants, selection)
    states = run_on_layout(inner, part, layout, selection.layout).flatten(0, 1)
    mask, by_token = predictable(batch), {}
    predicting = states[layout.before[mask]] if wants - {"scores"} else states
    if is_counting():
        logits = len(predicting if selection.heads else states) if wants & FROM_LOGITS else 0
        rewards = len(predicting) * ("values" in wants) + int(batch.present.sum()) * ("scores" in wants)
        count_forward(inner, layout.inputs["position_ids"], logits, rewards, reward_head)
    if wants & FROM_LOGITS:
        vocab = inner.config.get_text_config().vocab_size
        by_token = token_outputs(head, predicting, batch.response_ids[mask], vocab, wants & FROM_LOGITS)
    if "values" in wants:
        by_token["values"] = score(reward_head, predicting)
    outputs = {name: _scatter(values, mask) for name, values in by_token.items()}
    if "scores" in wants:
        # Pool by our own mask: transformers pools by token id and reads one token early when pad is eos.
        outputs["scores"] = _scatter(score(reward_head, states[layout.last[batch.present]]), batch.present)
    return outputs


def _scores_of_whole(
    inner: Any, batch: Batch, wants: frozenset[str], selection: LayoutSelection, reward_head: nn.Module | None
) -> Tensor:
    if more := wants - {"scores"}:
        raise ValueError(
            f"{type(inner).__name__} scores a text by its own forward pass, as encoders do, and cannot give "
            f"{', '.join(sorted(more))}: take a classification model of a causal family"
        )
    if is_counting():
        count_forward(inner, padded(batch).inputs["position_ids"], 0, int(batch.present.sum()), reward_head)
    return whole_scores(inner, batch, alone=selection.reading == ALONE)


def _parts(inner: Any, wants: frozenset[str], selection: LayoutSelection) -> tuple[Callable[..., Any], Head]:
    """What to run on the layout, and what turns the states that come out of it into logits."""
    if not wants & FROM_LOGITS:
        return inner.base_model, _unchanged
    for name, head in language_heads(inner).items():
        if name in selection.heads:
            return inner.base_model, head
    return inner.forward, _unchanged  # no known head: the whole model runs, and its states are its logits


def _unchanged(states: Tensor) -> Tensor:
    return states


def _scatter(values: Tensor, mask: Tensor) -> Tensor:
    """Put one value into each place where `mask` is True, and 0 elsewhere: [n] -> the shape of `mask`"""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)

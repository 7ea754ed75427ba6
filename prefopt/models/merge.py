"""Merging an adapter into its base, with a check on the model itself that the result says what the adapted model said.

PEFT's own `merge_and_unload` gives another model where head and embeddings are tied and an adapter is on one of them:
they share the weight that it changes, so that the change reaches both, and with an adapter on both each gets both
changes (0.21). It also rounds what it merges to the 4 or 8 bits of a quantised base. Here the head is untied first, and
a quantised base is dequantised.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from .auxiliary import policy_only
from .modes import evaluating, is_quantized
from .peft_adapters import adapter_weights, copy_model, keep_base, load_adapter_weights, untied_config
from .wrappers import check_adapter, unwrap_parallel

logger = logging.getLogger(__name__)

DEQUANTIZED = torch.bfloat16
"""The dtype of a merged model whose base was quantised."""
ROWS, COLUMNS = 4, 64
"""The token ids on which a merged model is compared with the adapted one."""


def merge_adapter(model: nn.Module) -> Any:
    """Merge a model's active adapter into a copy of its base, and check the copy's logits against the adapted model's.

    A quantised base is dequantised to bfloat16 for it, which changes the logits by what rounding to bfloat16 does; how
    much it is, is logged. Head and embeddings that were tied stay so only if the adapter has changed both alike.

    Args:
        model: it stays as it is. While this runs, there are two of it in memory.

    Returns:
        The merged model, whose weights take no gradients yet.

    Raises:
        ValueError: no adapter, one that is not in the layers, or a merged model that differs by more than rounding.
    """
    adapted = unwrap_parallel(model)
    if not isinstance(adapted, PeftModel):
        raise ValueError(f"{type(adapted).__name__} carries no adapter, so there is nothing to merge: use it as it is")
    check_adapter(adapted.active_peft_config)
    source = _dequantized(adapted) if is_quantized(adapted) else copy_model(adapted)
    expected = _logits(source)
    merged = _merged(source)
    found = _logits(merged)
    _check(found, expected, merged.dtype)
    _report(found, _logits(adapted) if is_quantized(adapted) else expected, is_quantized(adapted))
    return merged.train(adapted.training)


def _merged(model: PeftModel) -> Any:
    """The model after PEFT's merging, which takes the model apart."""
    inner: Any = model.get_base_model()
    was_tied = _untie(inner)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that head and embeddings differ, and how int8 rounds what is merged into it
        merged: Any = model.merge_and_unload()
    if was_tied:
        _tie_if_equal(merged)
    return merged


def _untie(inner: Any) -> bool:
    """Give the head a weight of its own where it is that of the embeddings; says whether it was."""
    head, embedding = _innermost(inner.get_output_embeddings()), _innermost(inner.get_input_embeddings())
    if head is None or embedding is None or head.weight is not embedding.weight:
        return False
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    return True


def _innermost(layer: Any) -> Any:
    """The layer of the base under all that PEFT has put around it."""
    while isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper):
        layer = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer.original_module
    return layer


def _tie_if_equal(merged: Any) -> None:
    """Tie head and embeddings again where they differ by no more than rounding; the config says which it is."""
    head, embedding = merged.get_output_embeddings(), merged.get_input_embeddings()
    rounding = 8 * torch.finfo(embedding.weight.dtype).eps * embedding.weight.abs().max()
    tied = bool((head.weight - embedding.weight).abs().max() <= rounding)
    if tied:
        head.weight = embedding.weight
    else:
        logger.info("the adapter changed head and embeddings apart: in the merged model they are no longer tied")
    for config in {id(config): config for config in (merged.config, merged.config.get_text_config())}.values():
        config.tie_word_embeddings = tied


def _dequantized(model: PeftModel) -> PeftModel:
    """A copy of an adapted model on its base in bfloat16."""
    name = model.active_adapter
    config, weights = untied_config(model, name), adapter_weights(model, name)
    keep_base(config)
    base: Any = copy_model(model).unload().dequantize(DEQUANTIZED)
    for parameter in base.parameters():  # a cast of the whole would round the buffers of rotary positions too
        parameter.data = parameter.data.to(DEQUANTIZED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the user has read of the first adapter
        adapted: Any = get_peft_model(base, config, adapter_name=name)
    load_adapter_weights(adapted, name, weights)
    return adapted


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    """What a model says after each of the ids, or of each row, in float32: of ids from all over the vocabulary."""
    config = model.config.get_text_config()
    columns = min(COLUMNS, getattr(config, "max_position_embeddings", None) or COLUMNS)
    ids = torch.linspace(0, config.vocab_size - 1, ROWS * columns, device=model.device).long().view(ROWS, columns)
    with policy_only(model), evaluating(model):
        return torch.cat([model(input_ids=row[None], use_cache=False).logits.float() for row in ids])


def _check(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Refuse a merged model whose logits, as the root of their mean square, are further off than rounding explains."""
    size, difference = expected.std().item(), (found - expected).square().mean().sqrt().item()
    tolerance = max(1e-4, 16 * torch.finfo(dtype).eps) * size
    if not difference <= tolerance:
        raise ValueError(
            f"merging this adapter changes the model: its logits, of standard deviation {size:.3g}, change by "
            f"{difference:.3g}, where rounding in {dtype} explains {tolerance:.2g}. Keep the adapter, which is as it "
            "was: save it, and load_policy loads its folder"
        )


def check_saved(merged: Any, saved: Any) -> None:
    """Refuse a model that was saved and does not say, once it is loaded, what it said.

    Raises:
        ValueError: its logits differ by more than rounding.
    """
    expected, found = _logits(merged), _logits(saved.to(merged.device))
    difference, size = (found - expected).abs().max().item(), expected.abs().max().item()
    if not difference <= max(1e-5, 16 * torch.finfo(merged.dtype).eps) * size:
        raise ValueError(
            f"the merged model says something else once it is saved and loaded: its logits, of up to {size:.3g}, "
            f"change by up to {difference:.3g}. Keep the adapter, and report this with the model's name"
        )


def _report(found: Tensor, before: Tensor, quantized: bool) -> None:
    difference, size = (found - before).abs(), before.abs().max()
    logger.log(
        logging.WARNING if quantized else logging.INFO,
        "the adapter is merged into its base%s: logits of up to %.3g change by up to %.2g, by %.2g on average",
        f", dequantised to {DEQUANTIZED}" if quantized else "",
        size,
        difference.max(),
        difference.mean(),
    )

"""The only file that calls a model: `Batch` in, `Outputs` out.

Everything about the physical layout lives here: the shift by one, masks, positions, which hidden states are read. An
objective never sees a logit, a label or a shift.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch, Outputs
from ..tensors import wide
from .heads import language_logits, reward_head_of

FROM_LOGITS = frozenset({"logps", "entropy", "top1", "log_sum_sq"})
FROM_HEAD = frozenset({"scores", "values"})


def forward(model: nn.Module, batch: Batch, wants: frozenset[str]) -> Outputs:
    """Run `model`, possibly wrapped (DDP, FSDP, PEFT, compiled), and return the fields of `Outputs` that `wants` names.

    Log-probs and what derives from them come from a language-model head, values and scores from a reward head. All
    are computed in at least float32, whatever the backbone's dtype.

    Raises:
        ValueError: an unknown field, or a model without the head that a field comes from.
    """
    unknown = wants - FROM_LOGITS - FROM_HEAD
    if unknown:
        raise ValueError(f"unknown outputs {sorted(unknown)}; a model can give {sorted(FROM_LOGITS | FROM_HEAD)}")
    inner = bare(model)
    return _inside(model, inner, lambda: _outputs(inner, batch, wants))


def bare(model: nn.Module) -> nn.Module:
    """The transformers model under every wrapper; adapters stay active, since they live in its layers."""
    from accelerate.utils import extract_model_from_parallel
    from peft import PeftModel

    model = extract_model_from_parallel(model, keep_torch_compile=False)
    if not isinstance(model, PeftModel):
        return model
    if model.active_peft_config.is_prompt_learning:
        kind = model.active_peft_config.peft_type.value
        raise ValueError(f"{kind} changes the prompt, not the layers: use an adapter such as LoRA")
    return model.get_base_model()


def _inside(model: nn.Module, inner: nn.Module, compute: Callable[[], Outputs]) -> Outputs:
    """Run `compute` in the place of `inner.forward` while calling `model`.

    Wrappers such as DDP and FSDP do their work around the forward of what they wrap; computing beside them leaves
    ranks out of step with no error. So the wrapper is called, and finds our computation where the model's was.
    """
    own = inner.__dict__.get("forward")

    def restore() -> None:
        inner.__dict__.pop("forward", None)
        if own is not None:
            inner.__dict__["forward"] = own

    def once(*_: object, **__: object) -> Outputs:
        restore()
        return compute()

    inner.__dict__["forward"] = once
    try:
        return model()
    finally:
        restore()


def _outputs(inner: Any, batch: Batch, wants: frozenset[str]) -> Outputs:
    if not wants & FROM_HEAD:
        return Outputs(**_language(_logits(inner, batch), batch, wants))
    hidden = inner.base_model(**_rows(batch), use_cache=False).last_hidden_state
    found = _heads(inner, hidden, batch, wants)
    if wants & FROM_LOGITS:
        found |= _language(language_logits(inner, _predicting(hidden, batch)), batch, wants)
    return Outputs(**found)


def _logits(inner: nn.Module, batch: Batch) -> Tensor:
    """[G*K, R, V]: the distributions that response tokens were drawn from."""
    keep = batch.response_ids.shape[-1] + 1
    return inner.forward(**_rows(batch), use_cache=False, logits_to_keep=keep).logits[:, -keep:-1]


def _rows(batch: Batch) -> dict[str, Tensor]:
    """Prompt and response side by side, one row per response: [G*K, P+R]."""
    k = batch.response_ids.shape[1]
    ids = torch.cat([batch.prompt_ids.repeat_interleave(k, 0), batch.response_ids.flatten(0, 1)], 1)
    mask = torch.cat([batch.prompt_mask.repeat_interleave(k, 0), batch.response_mask.flatten(0, 1)], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    mask = mask | (~mask.any(1, keepdim=True))  # attention over no key at all is NaN; an absent row's output is masked
    return {"input_ids": ids, "attention_mask": mask.long(), "position_ids": positions}


def _predicting(per_token: Tensor, batch: Batch) -> Tensor:
    """Positions from which response tokens are predicted: [G*K, P+R, ...] -> [G*K, R, ...]."""
    start = batch.prompt_ids.shape[1] - 1
    return per_token[:, start:-1]


def _heads(inner: nn.Module, hidden: Tensor, batch: Batch, wants: frozenset[str]) -> dict[str, Tensor]:
    found = {}
    if "values" in wants:
        values = _head(inner, _predicting(hidden, batch)).view(batch.response_mask.shape)
        found["values"] = values.masked_fill(~_predictable(batch), 0.0)
    if "scores" in wants:
        # Pool by our own mask: transformers pools by token id and reads one token early when pad is eos.
        last = batch.prompt_ids.shape[1] - 1 + batch.response_mask.sum(-1).flatten()
        scores = _head(inner, hidden[torch.arange(len(hidden), device=hidden.device), last]).view(batch.present.shape)
        found["scores"] = scores.masked_fill(~batch.present, 0.0)
    return found


def _head(inner: nn.Module, hidden: Tensor) -> Tensor:
    """The reward head in its own dtype, never under autocast: [..., H] -> [...]."""
    head = reward_head_of(inner)
    with torch.autocast(hidden.device.type, enabled=False):
        return head(hidden.to(next(head.parameters()).dtype)).squeeze(-1)


def _predictable(batch: Batch) -> Tensor:
    """[G, K, R]: response tokens that something predicts, which the first one after an empty prompt is not."""
    mask = batch.response_mask.clone()
    mask[..., 0] &= batch.prompt_mask.any(-1)[:, None]
    return mask


def _language(logits: Tensor, batch: Batch, wants: frozenset[str]) -> dict[str, Tensor]:
    found = token_outputs(logits, batch.response_ids.flatten(0, 1), wants & FROM_LOGITS)
    mask = ~_predictable(batch)
    return {name: value.view(mask.shape).masked_fill(mask, 0.0) for name, value in found.items()}


def token_outputs(logits: Tensor, tokens: Tensor, wants: frozenset[str]) -> dict[str, Tensor]:
    """Per-token outputs from the logits that predict them. logits: [N, R, V]; tokens: [N, R] -> each [N, R]."""
    logits = wide(logits)
    norm = logits.logsumexp(-1)
    picked = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    compute: dict[str, Callable[[], Tensor]] = {
        "logps": lambda: picked - norm,
        "entropy": lambda: norm - (logits.softmax(-1) * logits).sum(-1),
        "top1": lambda: (picked >= logits.amax(-1)).to(logits.dtype),
        "log_sum_sq": lambda: (2 * logits).logsumexp(-1) - 2 * norm,
    }
    return {name: compute[name]() for name in sorted(wants)}

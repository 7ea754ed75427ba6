"""The heads of a model: the reward head, the language-model head, and the normalisation of scores that a model stores.

A reward model is transformers' own sequence-classification class with one label, so that plain
`AutoModelForSequenceClassification.from_pretrained` loads what was trained here and gives the same scores.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPast

from ._logits import DenseHead, Head
from .weights import gathered_to_change
from .wrappers import own_forward, patched_forward

logger = logging.getLogger(__name__)

HEAD_NAMES = ("score", "classifier")
"""What transformers' classification models call the reward head."""
POOLER = "pooler"
"""What transformers' encoders call the layer of the backbone that makes one state of all."""
LM_HEAD = "auxiliary_lm_head"
"""The submodule of a reward model that is the language-model head of an auxiliary loss."""
NORMALIZATION = "score_normalization.json"
"""The file in an adapter's folder that holds the mean and standard deviation of training scores."""


def head_name(model: nn.Module) -> str:
    """The name of the submodule that is a model's reward head.

    Raises:
        ValueError: the model has none.
    """
    for name in HEAD_NAMES:
        if isinstance(getattr(model, name, None), nn.Module):
            return name
    remedy = "load it with AutoModelForSequenceClassification(num_labels=1), or prefopt.models.load.load_scorer"
    if "SequenceClassification" in type(model).__name__:
        remedy = "its family calls it otherwise or has an encoder and a decoder; take one such as Llama, Qwen or BERT"
    raise ValueError(f"{type(model).__name__} has no reward head ({' or '.join(HEAD_NAMES)}): {remedy}")


def reward_head_of(model: nn.Module) -> nn.Module:
    """A model's reward head, [n, H] -> [n, 1].

    Raises:
        ValueError: the model has none.
    """
    return getattr(model, head_name(model))


def score(head: Any, states: Tensor) -> Tensor:
    """The reward head in its own dtype, never under autocast: [n, H] -> [n]"""
    with torch.autocast(states.device.type, enabled=False):
        return head(states.to(next(head.parameters()).dtype)).squeeze(-1)


def is_scorer(model: nn.Module) -> bool:
    """Whether a model, without its wrappers, has a reward head."""
    return any(isinstance(getattr(model, name, None), nn.Module) for name in HEAD_NAMES)


def layers_below_head(model: Any) -> list[str]:
    """The names of layers between backbone and reward head, and of poolers: of decoders as a rule none.

    Checkpoints of language models have no weights for them, or none that were trained.
    """
    prefix: str = model.base_model_prefix
    beside = [name for name, _ in model.named_children() if name not in (*HEAD_NAMES, LM_HEAD, prefix)]
    names = [*beside, *(name for name, _ in model.named_modules() if name.split(".")[-1] == POOLER)]
    return [name for name in names if next(model.get_submodule(name).parameters(), None) is not None]


def several_labels(name: str, labels: object) -> str:
    """What is wrong with a classification model that gives several numbers to a response."""
    return (
        f"{name} gives {labels} numbers to a response, and a reward model gives one: make it with num_labels=1 "
        "(AutoModelForSequenceClassification has 2 unless told) and train it again"
    )


def check_scorer(model: Any, name: str) -> None:
    """Refuse a classification model that does not give one number to a response, or remembers what it has read.

    BigBird's block-sparse attention is for long inputs; the first shorter one changes it to full attention for good
    (transformers 5.23), so that the score of a long text would depend on the texts before it.

    Raises:
        ValueError: it has no head, several labels, or such attention.
    """
    reward_head_of(model)
    if (labels := model.config.num_labels) != 1:
        raise ValueError(several_labels(name, labels))
    if any(getattr(part, "attention_type", None) == "block_sparse" for part in (model.config, *model.modules())):
        raise ValueError(
            f"{name} has attention_type='block_sparse', which its first short text changes to full attention for good: "
            "what it says of a long text would depend on the texts before. Load it with attention_type='original_full' "
            "(in model_init_kwargs, or as an argument of from_pretrained), which any text can have"
        )


def upcast_head(model: nn.Module) -> None:
    """Convert a reward head in half precision to float32: bfloat16 scores tie about a fifth of all pairs."""
    head = reward_head_of(model)
    if next(head.parameters()).dtype in (torch.float16, torch.bfloat16):
        head.float()


def scorer_from_policy(policy: PreTrainedModel) -> PreTrainedModel:
    """Make a reward model of a copy of the policy's backbone and a new head, as Llama 2 does (section 3.2.2).

    Raises:
        ValueError: a quantised policy, one whose weights processes share, or a family for which transformers has no
            classification model.
    """
    kind = type(policy.config)
    if any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in policy.parameters()):
        raise ValueError("weights that are spread over processes cannot be copied: pass the policy's path")
    if getattr(policy, "quantization_method", None) is not None:
        raise ValueError("a quantised model cannot be copied: pass its name, with the quantization_config")
    if kind not in AutoModelForSequenceClassification._model_mapping:
        raise ValueError(
            f"transformers has no sequence-classification model for {kind.model_type!r}, so nothing could load a "
            "reward model of it: choose a backbone of another family"
        )
    labels = {"id2label": {0: "score"}, "label2id": {"score": 0}}
    config = kind.from_dict(policy.config.to_dict() | labels | {"architectures": None})
    scorer = AutoModelForSequenceClassification.from_config(config, dtype=policy.dtype)
    with gathered_to_change(scorer.base_model.parameters()):
        scorer.base_model.load_state_dict(policy.base_model.state_dict())
    upcast_head(scorer)
    return scorer.to(policy.device).train(policy.training)


def separate_pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give model and tokenizer a pad token that does not end a response.

    transformers' classification models score the last token that is not pad. With pad == eos that is one token before
    the one trained here, so another special token becomes pad, in the config and the tokenizer that are saved.

    Raises:
        ValueError: all special tokens of the tokenizer end a response.
    """
    own: Any = model.config.pad_token_id
    if counts_positions_by_pad(model) and own is not None:
        if tokenizer.pad_token_id != own:
            token = tokenizer.convert_ids_to_tokens(own)
            logger.warning("%s counts positions by its own pad token: pad is now %r", type(model).__name__, token)
            tokenizer.pad_token = token
        return
    ends = {tokenizer.eos_token_id, *_template_ends(tokenizer)}
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in ends:
        free = [i for i in sorted(tokenizer.all_special_ids) if i not in ends]
        if not free:
            raise ValueError(
                "the tokenizer's only special tokens end a response, so none can pad: add one with "
                "tokenizer.add_special_tokens({'pad_token': '<pad>'}) and model.resize_token_embeddings(len(tokenizer))"
            )
        token = tokenizer.convert_ids_to_tokens(free[0])
        logger.warning("pad was an end token, which plain transformers would not score: pad is now %r", token)
        tokenizer.pad_token = token
    model.config.pad_token_id = tokenizer.pad_token_id


def counts_positions_by_pad(model: nn.Module) -> bool:
    """Whether another pad token would shift all positions: RoBERTa counts from the ids that are not pad."""
    return any(hasattr(part, "padding_idx") and hasattr(part, "position_embeddings") for part in model.modules())


def _template_ends(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    from ..data.encode import stop_token_ids

    return list(stop_token_ids(tokenizer))


def attach_lm_head(model: PreTrainedModel, policy: Any) -> None:
    """Give a reward model the policy's language-model head, for the auxiliary loss of Secrets of RLHF, eq. 2.

    It is part of the module, so that it trains and is synchronised with the rest, but `save_pretrained` leaves it out,
    since the saved model is a classification model; checkpoints keep what `auxiliary_state` gives.

    Args:
        model: the reward model.
        policy: the language model whose head is copied.

    Raises:
        ValueError: `policy` is None or has no language-model head.
    """
    source = None if policy is None else policy.get_output_embeddings()
    if source is None:
        raise ValueError("lm_coefficient > 0 needs a checkpoint with a language-model head, or ready log-probs")
    tied = source.weight.data_ptr() == policy.get_input_embeddings().weight.data_ptr()
    head = nn.Linear(source.in_features, source.out_features, bias=source.bias is not None)
    head.load_state_dict(source.state_dict())
    head.to(model.device, source.weight.dtype)
    if tied:
        head.weight = model.get_input_embeddings().weight  # type: ignore[assignment]
    model.add_module(LM_HEAD, head)
    unsaved = {f"{LM_HEAD}.{name}" for name in head.state_dict()}
    model._keys_to_ignore_on_save = {*(model._keys_to_ignore_on_save or ()), *unsaved}


def language_heads(model: Any) -> dict[str, Head]:
    """The ways in which hidden states of a model's backbone may become logits, [n, H] -> [n, V], the fastest first.

    `dense` is the head's matrix, where no adapter, quantisation, sharding or hook sits on the head; `own` is the
    model's own forward without its backbone. A family may do more than either, so `layout_selection.py` compares both
    with the model's logits.

    Raises:
        ValueError: a reward model without the auxiliary head.
    """
    if not is_scorer(model):
        head = model.get_output_embeddings()
        plain = {"dense": _dense(model, head)} if _is_plain(head) else {}
        return {**plain, "own": partial(_own_logits, model)}
    head = getattr(model, LM_HEAD, None)
    if head is None:
        raise ValueError("this reward model has no auxiliary language-model head: pass lm_coefficient when creating it")
    shaped = _dense(model, head)
    return {"own": shaped if _is_plain(head) else lambda hidden: shaped.shaped(head(hidden))}


def _is_plain(head: Any) -> bool:
    if type(head) is not nn.Linear or "forward" in head.__dict__:
        return False
    hooks = (head._forward_hooks, head._forward_pre_hooks, head._backward_hooks, head._backward_pre_hooks)
    return not any(hooks) and type(head.weight) in (nn.Parameter, Tensor)


def _dense(model: Any, head: nn.Linear) -> DenseHead:
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
    scale = scale / (getattr(config, "logits_scaling", None) or 1.0)  # Granite
    return DenseHead(head.weight, head.bias, scale, getattr(config, "final_logit_softcapping", None))  # Gemma


class _Hidden(BaseModelOutputWithPast):
    """What a backbone returns, with None for whatever else a family looks for."""

    def __getattr__(self, name: str) -> None:
        return None


def _own_logits(model: Any, hidden: Tensor) -> Tensor:
    """[n, H] -> [n, V] by the model's own forward, around a patched backbone that returns `hidden`."""
    ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
    with patched_forward(model.base_model, lambda *_, **__: _Hidden(last_hidden_state=hidden[None])):
        return own_forward(model)(input_ids=ids, use_cache=False).logits[0]


def auxiliary_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the auxiliary language-model head, which `save_pretrained` leaves out; empty without one."""
    return {name: tensor for name, tensor in model.state_dict().items() if LM_HEAD in name}


def set_normalization(model: PreTrainedModel | PeftModel, mean: float, std: float) -> None:
    """Store the mean and standard deviation of training scores in the config, which is saved with the model."""
    model.config.score_mean, model.config.score_std = float(mean), float(std) or 1.0


def clear_normalization(model: PreTrainedModel | PeftModel) -> None:
    """Remove what an earlier training stored: it describes scores that the model no longer gives."""
    for name in ("score_mean", "score_std"):
        model.config.__dict__.pop(name, None)


def normalize(model: PreTrainedModel | PeftModel, scores: Tensor) -> Tensor:
    """Shift and scale a reward model's scores to mean 0 and standard deviation 1 over its training data.

    Args:
        model: with a mean and a standard deviation that `set_normalization` stored.
        scores: of any shape, as the model gives them.

    Returns:
        (score - mean) / std, of the same shape; `scores` themselves for a model that stores nothing.
    """
    mean, std = getattr(model.config, "score_mean", 0.0), getattr(model.config, "score_std", 1.0)
    return (scores - mean) / std


def save_normalization(model: nn.Module, folder: Path) -> None:
    """Write mean and standard deviation of scores into an adapter's folder, which has no config of the model."""
    if isinstance(model, PeftModel) and hasattr(model.config, "score_mean"):
        stored = {"score_mean": model.config.score_mean, "score_std": model.config.score_std}
        (folder / NORMALIZATION).write_text(json.dumps(stored))


def load_normalization(model: PreTrainedModel, folder: Path) -> None:
    """Read what `save_normalization` wrote into a folder, if it wrote anything, into the model's config."""
    if (folder / NORMALIZATION).is_file():
        stored = json.loads((folder / NORMALIZATION).read_text())
        set_normalization(model, stored["score_mean"], stored["score_std"])

"""What makes a training need less memory: the arguments that it does not use yet, in words."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from torch import nn

from ..models.modes import is_quantized
from ..models.wrappers import base_transformer
from ..objectives.base import Objective
from .config import PreferenceConfig

BEGINNING = "adamw"
"""How optimizers are called that keep two numbers for each weight."""
SMALLER = ("8bit", "4bit", "paged")


def remedies(args: PreferenceConfig, model: nn.Module, objective: Objective, *, own_reference: bool) -> list[str]:
    """What would lower the peak of memory, that which costs the least first.

    Args:
        model: the policy or the reward model that trains, maybe with an adapter.
        own_reference: the reference has weights of its own.
    """
    adapted = isinstance(model, PeftModel)
    optimizer = str(getattr(args.optim, "value", args.optim))
    can: dict[str, bool] = {
        "gradient_checkpointing=True": not args.gradient_checkpointing,
        "bf16=True": not (args.bf16 or args.fp16),
        "reference_dtype='bfloat16'": own_reference and args.reference_dtype is None and not args.sync_ref_model,
        "precompute_ref_log_probs=True": own_reference
        and args.reference_dtype is None
        and not (objective.on_policy or args.sync_ref_model),
        "an adapter (--use_peft, peft_config=LoraConfig(...))": not adapted,
        "4-bit weights under the adapter (--load_in_4bit)": adapted and not _quantised(model),
        "optim='paged_adamw_8bit'": not adapted and BEGINNING in optimizer and not any(s in optimizer for s in SMALLER),
        "share_critic=True": hasattr(objective, "share_critic") and adapted and not objective.share_critic,
    }
    return [name for name, applies in can.items() if applies]


def _quantised(model: Any) -> bool:
    return is_quantized(base_transformer(model))


def listed(names: list[str]) -> str:
    """ "a, b or c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"

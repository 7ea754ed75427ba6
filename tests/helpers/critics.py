"""Policies, critics and losses that the tests of critics share."""

from __future__ import annotations

import copy
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from torch import Tensor, nn

from prefopt.batch import Batch
from prefopt.models.forward import forward
from prefopt.models.heads import scorer_from_policy
from tests.helpers.by_hand import gradients
from tests.helpers.models import tiny
from tests.helpers.rows import ragged

BOTH = frozenset({"logps", "values"})
LOGPS, VALUES = frozenset({"logps"}), frozenset({"values"})
TARGETS = {"gpt2": ["c_attn"]}
CHECKPOINTS = {"off": None, "reentrant": True, "not reentrant": False}


def disturb(model: nn.Module, seed: int) -> Any:
    """What training would have done: adapters and heads that are not zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def lora(family: str, task: str, **changes: Any) -> LoraConfig:
    targets = TARGETS.get(family, ["q_proj", "v_proj"])
    return LoraConfig(**{"r": 4, "target_modules": targets, "task_type": task} | changes)


def policy_of(family: str = "llama", *, adapter: bool = False, base: Any = None, seed: int = 3) -> Any:
    base = base or tiny(family)
    return disturb(get_peft_model(base, lora(family, "CAUSAL_LM")), seed).eval() if adapter else base


def scorer_of(family: str = "llama", *, adapter: bool = False, seed: int = 7, base: Any = None, **config: Any) -> Any:
    """A reward model: on weights of its own, or an adapter on the same backbone as a policy's of this family."""
    torch.manual_seed(seed)
    scorer = scorer_from_policy(base or (tiny(family) if adapter else tiny(family, seed=seed)))
    scorer.score.weight.data.normal_()
    if adapter:
        return disturb(get_peft_model(scorer, lora(family, "SEQ_CLS", **config)), seed).eval()
    return scorer


def checkpointed(model: Any, reentrant: bool | None) -> Any:
    if reentrant is not None:
        inner = model.get_base_model() if isinstance(model, PeftModel) else model
        inner.activation_checkpointing_enable({"use_reentrant": reentrant})
    return model.train()


def weigh(values: Tensor, seed: int) -> Tensor:
    """Any loss to which every value matters."""
    generator = torch.Generator().manual_seed(seed)
    return (values * torch.randn(values.shape, generator=generator, dtype=values.dtype)).sum()


def joint_loss(policy: nn.Module, batch: Batch) -> Tensor:
    out = forward(policy, batch, BOTH)
    return weigh(out.required("logps"), 0) + weigh(out.required("values") ** 2, 1)


def apart(policy: nn.Module, critic: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of the two losses of `joint_loss`, each from a model of its own."""
    own = gradients(policy, weigh(forward(policy, batch, LOGPS).required("logps"), 0))
    return own, gradients(critic, weigh(forward(critic, batch, VALUES).required("values") ** 2, 1))


def values_of(model: nn.Module, batch: Batch | None = None) -> Tensor:
    with torch.no_grad():
        return forward(model, batch or ragged(k=2), VALUES).required("values")


def logps_of(model: nn.Module, batch: Batch | None = None) -> Tensor:
    with torch.no_grad():
        return forward(model, batch or ragged(k=2), LOGPS).required("logps")


def names_in(file: Any) -> set[str]:
    with safe_open(file, framework="pt") as weights:
        return set(weights.keys())


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(dict(model.state_dict()))

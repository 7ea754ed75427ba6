"""A critic that shares the policy's backbone: a second LoRA adapter and a value head, and no second model in memory."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.utils.other import match_target_against_key
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModelForSequenceClassification

from .auxiliary import CRITIC, AuxiliaryModule, auxiliary_module
from .heads import HEAD_NAMES, head_name, is_scorer, reward_head_of
from .layout_selection import backbone
from .load import load_scorer
from .peft_adapters import adapter_weights, always_save_policy_only, new_adapter, rewrites_base
from .weights import spot_check
from .whole_weights import copy_part
from .wrappers import base_transformer, unwrap_parallel

logger = logging.getLogger(__name__)

PREFIX = "base_model.model."
"""What every name in an adapter's saved folder begins with."""


class SharedCritic(AuxiliaryModule):
    """Holds the value head of a shared critic; its adapter is in the policy's layers.

    Args:
        name: the head's name in a reward model of this family.
        head: [n, H] -> [n, 1]
    """

    def __init__(self, name: str, head: nn.Module):
        super().__init__(**{name: head})
        self.head_name = name

    @property
    def head(self) -> nn.Module:
        """The value head."""
        return getattr(self, self.head_name)


def share_critic(
    policy: nn.Module, peft_config: PeftConfig | None = None, scorer: str | nn.Module | None = None
) -> SharedCritic:
    """Give a policy that trains through LoRA a critic on the policy's backbone. Its values are 0 before it learns.

    Args:
        policy: its base weights stay frozen, or policy and critic would train each other's backbone.
        peft_config: the critic's adapter; by default like the policy's.
        scorer: a reward model, or its path. If it is an adapter on the very weights of the policy's backbone, the
            critic starts as a copy of it, by its config and not by `peft_config`. Any other reward model is not used,
            which is logged.

    Returns:
        The critic, attached to the policy.

    Raises:
        ValueError: a policy that cannot share its backbone; the message says why and what to do.
    """
    inner = unwrap_parallel(policy)
    _check(inner)
    scorer = load_scorer(scorer) if isinstance(scorer, str) else scorer
    name, head = _blank_head(inner)
    source = None if scorer is None else _copyable(inner, unwrap_parallel(scorer))
    config = source.active_peft_config if source is not None else peft_config or inner.active_peft_config
    new_adapter(inner, CRITIC, _without_heads(inner, config))
    critic = SharedCritic(name, head)
    if source is not None:
        _copy_scorer(source, inner, head)
    else:
        logger.info("the shared critic starts from a fresh adapter and a value head of zero")
    base_transformer(inner).add_module(CRITIC, critic.train(inner.training))
    always_save_policy_only(inner)
    for key, parameter in inner.named_parameters():
        if CRITIC in key.split("."):
            parameter.requires_grad_(True)
    return critic


def _check(policy: Any) -> None:
    if isinstance(policy, FSDPModule):
        raise ValueError("weights that FSDP spreads over ranks take no second adapter: share_critic before wrapping")
    if not isinstance(policy, PeftModel):
        raise ValueError(
            f"share_critic needs an adapter on the policy, and {type(policy).__name__} has none: its backbone would "
            "train as policy and as critic. Pass a peft_config, or attach a critic of its own"
        )
    if auxiliary_module(policy) is not None or CRITIC in policy.peft_config:
        raise ValueError("the policy has a critic already: detach_critic(policy) first")
    _check_config(policy.active_peft_config, "the policy's adapter")
    if rewrites_base(policy.active_peft_config):
        raise ValueError(
            "the policy's adapter was initialised by rewriting the base weights (PiSSA and its kin), under which a "
            "saved critic would not find its backbone again: attach a critic of its own"
        )
    if is_scorer(policy.get_base_model()):
        raise ValueError("this is a reward model, which has values of its own: share_critic needs a policy")


def _check_config(config: Any, whose: str) -> None:
    if not isinstance(config, LoraConfig) or config.bias != "none":
        raise ValueError(
            f"{whose} is {type(config).__name__} with bias={getattr(config, 'bias', None)!r}, and only LoRA with "
            "bias='none' leaves the backbone as it is for another adapter: attach a critic of its own"
        )


def _blank_head(policy: PeftModel) -> tuple[str, nn.Module]:
    """The name and a new head of the family's classification model: zero, in float32 at least."""
    inner: Any = policy.get_base_model()
    kind = type(inner.config)
    if kind not in AutoModelForSequenceClassification._model_mapping or backbone(inner) is None:
        raise ValueError(
            f"transformers has no sequence-classification model for {kind.model_type!r}, so nothing could load a "
            "critic of it: attach a critic of another family"
        )
    config = kind.from_dict(inner.config.to_dict() | {"id2label": {0: "score"}, "label2id": {"score": 0}})
    with torch.device("meta"):
        scorer = AutoModelForSequenceClassification.from_config(config)
    head = reward_head_of(scorer).to_empty(device=inner.device).to(torch.promote_types(inner.dtype, torch.float32))
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return head_name(scorer), head


def _without_heads(policy: PeftModel, peft_config: PeftConfig) -> Any:
    """A config of the layers only: the critic's own head trains in full, and the policy's is of no use to it."""
    _check_config(peft_config, "peft_config")
    config: Any = copy.deepcopy(peft_config)
    config.base_model_name_or_path = policy.active_peft_config.base_model_name_or_path
    heads = {*HEAD_NAMES, *_output_names(policy)}
    saved_modules = [name for name in config.modules_to_save or () if name not in heads]
    config.modules_to_save, config.inference_mode, config.task_type = saved_modules or None, False, "SEQ_CLS"
    targets = config.target_modules
    if isinstance(targets, list | set | tuple):
        config.target_modules = {name for name in targets if name.split(".")[-1] not in heads}
    elif any(match_target_against_key(targets, name) for name in _output_names(policy)):
        raise ValueError(
            f"target_modules={targets!r} also means the policy's output head, which a critic has no use for: pass "
            "share_critic a peft_config that names the layers"
        )
    return config


def _output_names(policy: PeftModel) -> list[str]:
    inner: Any = policy.get_base_model()
    head = inner.get_output_embeddings()
    return [name for name, module in inner.named_modules() if module is head]


def _copyable(policy: PeftModel, scorer: Any) -> PeftModel | None:
    """The reward model, if its adapter means the same on the policy's backbone as on its own; else None."""
    reason = "it is no adapter"
    if isinstance(scorer, PeftModel) and is_scorer(scorer.get_base_model()):
        config: Any = scorer.active_peft_config
        if not isinstance(config, LoraConfig) or config.bias != "none" or rewrites_base(config):
            reason = "its adapter changes the base weights too"
        elif (reason := _difference(policy, scorer)) == "":
            return scorer
    logger.warning("the critic cannot start from the reward model, and says 0 at first: %s", reason)
    return None


def _difference(policy: PeftModel, scorer: PeftModel) -> str:
    """How the backbones of policy and reward model differ, "" if they do not."""
    policys, scorers = _base_weights(policy), _base_weights(scorer)
    if {name: w.shape for name, w in policys.items()} != {name: w.shape for name, w in scorers.items()}:
        return "its backbone is of another shape than the policy's"
    same = spot_check(policys) == spot_check({name: w.to(policys[name].dtype) for name, w in scorers.items()})
    return "" if same else "its backbone has other weights than the policy's"


def _base_weights(model: PeftModel) -> dict[str, Tensor]:
    """The backbone's weights, by the names that they have without adapters."""
    body = backbone(model.get_base_model())
    assert body is not None
    weights = {n: p for n, p in body.named_parameters() if "lora_" not in n and ".modules_to_save." not in n}
    return {n.replace(".base_layer.", ".").replace(".original_module.", "."): p.detach() for n, p in weights.items()}


@torch.no_grad()
def _copy_scorer(scorer: PeftModel, policy: PeftModel, head: nn.Module) -> None:
    """Copy the adapter and head of a reward model into the critic's."""
    inner = scorer.get_base_model()
    prefix = f"{PREFIX}{head_name(inner)}."
    scorer_head = {f"{prefix}{name}": p for name, p in _active_head(inner).named_parameters()}
    critic_head = {f"{prefix}{name}": p for name, p in head.named_parameters()}
    source = adapter_weights(scorer, scorer.active_adapter) | scorer_head
    copy_weights(source, adapter_weights(policy, CRITIC) | critic_head, "the reward model")


def _active_head(inner: nn.Module) -> nn.Module:
    """The reward head in use, of which PEFT trains a copy."""
    head = reward_head_of(inner)
    copies: Any = getattr(head, "modules_to_save", None)
    return copies[head.active_adapters[0]] if copies is not None else head  # type: ignore[index,operator]


@torch.no_grad()
def copy_weights(source: dict[str, Tensor], target: dict[str, Tensor], whose: str) -> None:
    """Write weights into a critic's, which stay the same tensors.

    Args:
        source: the weights to copy, by name.
        target: the critic's weights, by name.
        whose: how the message calls the owner of `source`.

    Raises:
        ValueError: the names or shapes differ; nothing is written then.
    """
    differ = sorted(n for n in target.keys() | source.keys() if n not in target or n not in source)
    differ = differ or sorted(name for name, tensor in target.items() if tensor.shape != source[name].shape)
    if differ:
        raise ValueError(
            f"{whose} holds other weights than this critic, such as {', '.join(differ[:3])}: make the critic from what "
            "it was made from then"
        )
    for name, tensor in target.items():
        copy_part(source[name], tensor)


def shared_weights(policy: PeftModel, critic: SharedCritic) -> dict[str, Tensor]:
    """The critic's adapter and head under the names of an adapter on a reward model: themselves, no copies."""
    head = {f"{PREFIX}{critic.head_name}.{name}": p.detach() for name, p in critic.head.named_parameters()}
    return adapter_weights(policy, CRITIC) | head


def shared_config(policy: PeftModel, critic: SharedCritic) -> Any:
    """The config under which `shared_weights` is the adapter of a reward model on the policy's base."""
    config: Any = copy.deepcopy(policy.peft_config[CRITIC])
    config.modules_to_save = sorted({*(config.modules_to_save or ()), critic.head_name})
    return config

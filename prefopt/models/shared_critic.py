"""A critic on the policy's own backbone: a second adapter and a value head. It costs no second model."""

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

from .auxiliary import CRITIC, Beside, beside, transformer_of
from .heads import HEAD_NAMES, head_name, is_scorer, reward_head_of
from .layout_choice import backbone
from .load import load_scorer
from .peft_adapters import always_alone, new_adapter, remove_adapter, rewrites_base, unwrapped, weights_of
from .weights import spot_check

logger = logging.getLogger(__name__)

PREFIX = "base_model.model."
"""Of every name in an adapter's folder."""


class SharedCritic(Beside):
    """The value head, under the name that it has in a reward model; the adapter is in the policy's layers."""

    def __init__(self, name: str, head: nn.Module):
        super().__init__(**{name: head})
        self.head_name = name

    @property
    def head(self) -> nn.Module:
        return getattr(self, self.head_name)


def share_critic(
    policy: nn.Module, peft_config: PeftConfig | None = None, scorer: str | nn.Module | None = None
) -> SharedCritic:
    """Give a policy that trains through LoRA a critic on its own backbone. What it says before it learns is 0.

    Args:
        policy: its base weights stay frozen, or the two would train each other's backbone.
        peft_config: the critic's adapter; by default like the policy's.
        scorer: a reward model. If it is an adapter on the very weights of the policy's backbone, the critic starts as
            a copy of it, by its config and not by `peft_config`. Any other gives nothing, which is logged.

    Raises:
        ValueError: a policy that cannot share its backbone; the message says why and what to do.
    """
    inner = unwrapped(policy)
    _check(inner)
    scorer = load_scorer(scorer) if isinstance(scorer, str) else scorer
    name, head = _blank_head(inner)
    given = None if scorer is None else _copyable(inner, unwrapped(scorer))
    wanted = given.active_peft_config if given is not None else peft_config or inner.active_peft_config
    new_adapter(inner, CRITIC, _on_backbone(inner, wanted))
    critic = SharedCritic(name, head)
    if given is not None:
        _copy_into(inner, head, given)
    else:
        logger.info("the shared critic starts from a fresh adapter and a value head of zero")
    transformer_of(inner).add_module(CRITIC, critic.train(inner.training))
    always_alone(inner)
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
    if beside(policy) is not None or CRITIC in policy.peft_config:
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
    """The head of the family's classification model, zero, in float32 at least; with the name that it has there."""
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


def _on_backbone(policy: PeftModel, wanted: PeftConfig) -> Any:
    """`wanted` without what it asks for heads: the critic's is trained in full, the policy's is none of its."""
    _check_config(wanted, "peft_config")
    config: Any = copy.deepcopy(wanted)
    config.base_model_name_or_path = policy.active_peft_config.base_model_name_or_path
    heads = {*HEAD_NAMES, *_output_names(policy)}
    saved = [name for name in config.modules_to_save or () if name not in heads]
    config.modules_to_save, config.inference_mode, config.task_type = saved or None, False, "SEQ_CLS"
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
    """The scorer, if its adapter means the same on the policy's backbone as on its own."""
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
    """How the backbones differ, "" if they do not."""
    own, other = _base_weights(policy), _base_weights(scorer)
    if {name: w.shape for name, w in own.items()} != {name: w.shape for name, w in other.items()}:
        return "its backbone is of another shape than the policy's"
    same = spot_check(own) == spot_check({name: w.to(own[name].dtype) for name, w in other.items()})
    return "" if same else "its backbone has other weights than the policy's"


def _base_weights(model: PeftModel) -> dict[str, Tensor]:
    """The backbone's weights, by the names that they have without adapters."""
    body = backbone(model.get_base_model())
    assert body is not None
    named = {n: p for n, p in body.named_parameters() if "lora_" not in n and ".modules_to_save." not in n}
    return {n.replace(".base_layer.", ".").replace(".original_module.", "."): p.detach() for n, p in named.items()}


@torch.no_grad()
def _copy_into(policy: PeftModel, head: nn.Module, scorer: PeftModel) -> None:
    inner = scorer.get_base_model()
    start = f"{PREFIX}{head_name(inner)}."
    source = weights_of(scorer, scorer.active_adapter)
    own = weights_of(policy, CRITIC) | {f"{start}{name}": p for name, p in head.named_parameters()}
    fill(own, source | {f"{start}{name}": p for name, p in _active_head(inner).named_parameters()}, "the reward model")


def _active_head(inner: nn.Module) -> nn.Module:
    """PEFT trains a copy of the head."""
    head = reward_head_of(inner)
    copies: Any = getattr(head, "modules_to_save", None)
    return copies[head.active_adapters[0]] if copies is not None else head  # type: ignore[index,operator]


@torch.no_grad()
def fill(own: dict[str, Tensor], source: dict[str, Tensor], whose: str) -> None:
    """Write `source` into the tensors of `own`, which stay the same tensors.

    Raises:
        ValueError: other names or shapes; nothing is written then.
    """
    differ = sorted(n for n in own.keys() | source.keys() if n not in own or n not in source)
    differ = differ or sorted(name for name, tensor in own.items() if tensor.shape != source[name].shape)
    if differ:
        raise ValueError(
            f"{whose} holds other weights than this critic, such as {', '.join(differ[:3])}: make the critic from what "
            "it was made from then"
        )
    for name, tensor in own.items():
        tensor.copy_(source[name])


def shared_weights(policy: PeftModel, critic: SharedCritic) -> dict[str, Tensor]:
    """Adapter and head, by the names of an adapter on a reward model; the weights themselves."""
    start = f"{PREFIX}{critic.head_name}."
    return weights_of(policy, CRITIC) | {f"{start}{name}": p.detach() for name, p in critic.head.named_parameters()}


def shared_config(policy: PeftModel, critic: SharedCritic) -> Any:
    """The config under which `shared_weights` is the adapter of a reward model on the policy's base."""
    config: Any = copy.deepcopy(policy.peft_config[CRITIC])
    config.modules_to_save = sorted({*(config.modules_to_save or ()), critic.head_name})
    return config


def unshare(policy: PeftModel) -> None:
    """Take the adapter off again."""
    remove_adapter(policy, CRITIC)

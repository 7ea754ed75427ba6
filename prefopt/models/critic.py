"""The critic of a policy: a reward model beside it whose head is read at every token, or one on its own backbone.

It is part of the policy's module tree (see `beside.py`), and `forward` reads "values" from it. It is saved as a reward
model, which loads alone.
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import AutoConfig, PreTrainedTokenizerBase

from .auxiliary import CRITIC, Beside, beside, is_critics, transformer_of, unwrapped
from .heads import LM_HEAD, clear_normalization, is_scorer, reward_head_of, widen_head
from .load import load_scorer, load_tokenizer
from .modes import is_quantized, without_dropout
from .peft_adapters import always_alone, weights_of
from .shared_critic import SharedCritic, fill, shared_config, shared_weights, unshare

logger = logging.getLogger(__name__)

WEIGHTS = "adapter_model.safetensors"


class OwnCritic(Beside):
    """A model of its own."""

    model: nn.Module


def critic_of(policy: nn.Module) -> nn.Module | None:
    """The policy's critic: the model handed to `attach_critic`, a `SharedCritic`, or None. Any wrapping will do."""
    place = beside(policy)
    return place.model if isinstance(place, OwnCritic) else place


def attach_critic(policy: nn.Module, critic: nn.Module, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Put a reward model beside the policy, on the policy's device, as its critic.

    Args:
        policy: not yet wrapped by DDP or prepared by accelerate, which would not see the new weights.
        critic: of any size, maybe with an adapter; `new_critic` makes one.
        tokenizer: the policy's. Without it the critic must read all ids that the policy's vocabulary has.

    Raises:
        ValueError: what cannot be a critic of this policy; the message says why.
    """
    owner, critic = unwrapped(policy), unwrapped(critic)
    _check(policy, owner, critic)
    inner = transformer_of(owner)
    if not is_quantized(transformer_of(critic)):
        critic.to(inner.device)  # type: ignore[arg-type]
    _check_reads(critic, inner, tokenizer)
    inner.add_module(CRITIC, OwnCritic(model=critic))
    if isinstance(owner, PeftModel):
        always_alone(owner)


def detach_critic(policy: nn.Module) -> None:
    """Take the critic off, of either kind; the policy is then what it was before. Without a critic: nothing."""
    owner, place = unwrapped(policy), beside(policy)
    if place is None:
        return
    if isinstance(place, SharedCritic):
        unshare(owner)
    del transformer_of(owner)._modules[CRITIC]
    owner.__dict__.pop("save_pretrained", None)


def _check(policy: nn.Module, owner: Any, critic: Any) -> None:
    name = type(transformer_of(critic)).__name__
    if any(isinstance(model, FSDPModule) for model in (policy, owner, critic)):
        raise ValueError("weights that FSDP spreads over ranks cannot be put together: attach the critic before FSDP")
    if owner is critic or is_scorer(transformer_of(owner)):
        raise ValueError(f"{type(owner).__name__} is a reward model with values of its own: attach_critic to a policy")
    if beside(owner) is not None:
        raise ValueError("the policy has a critic already: detach_critic(policy) first")
    if not is_scorer(transformer_of(critic)):
        raise ValueError(f"{name} has no reward head to read values from: make a critic of it with new_critic")
    if (labels := transformer_of(critic).config.num_labels) != 1:  # type: ignore[union-attr]
        raise ValueError(f"{name} has {labels} labels, and a critic says one value: load it with num_labels=1")
    if {id(p) for p in owner.parameters()} & {id(p) for p in critic.parameters()}:
        raise ValueError(f"{name} shares weights with the policy: pass a copy, or share_critic for one backbone")


def _check_reads(critic: nn.Module, policy: Any, tokenizer: PreTrainedTokenizerBase | None) -> None:
    inner: Any = transformer_of(critic)
    needed = policy.config.get_text_config().vocab_size if tokenizer is None else len(tokenizer)
    known = inner.config.get_text_config().vocab_size
    if known < needed:
        raise ValueError(
            f"{type(inner).__name__} knows {known} tokens and the policy has {needed}: take a critic of the policy's "
            "family, or None for one that starts from the policy (a vocabulary that is only padded: pass tokenizer)"
        )
    if inner.config.is_encoder_decoder or _looks_ahead(inner):
        raise ValueError(
            f"{type(inner).__name__} sees the tokens after the one that it speaks of, so its values would know the "
            "action: take a decoder such as Llama or Qwen"
        )


@torch.no_grad()
def _looks_ahead(inner: Any) -> bool:
    """Does a hidden state change with a later token?"""
    with without_dropout(inner):
        ids = torch.tensor([[3, 4, 5], [3, 4, 6]], device=inner.device) % inner.config.get_text_config().vocab_size
        states = inner.base_model(input_ids=ids)[0][:, :2].float()
    return not torch.allclose(states[0], states[1], rtol=1e-2, atol=1e-3)


# ---- what a critic starts from -------------------------------------------------------------------------------------


def new_critic(
    source: str | Path | nn.Module | None,
    policy: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **load: Any,
) -> Any:
    """A critic to attach to `policy`; all of it trains, or adapter and head of one that has an adapter.

    What a reward model stores to normalise its scores is forgotten in the copy: a critic says returns of rewards as
    they are, normalised, and no scores. A plain model gets the policy's dtype,
    the head at least float32.

    Args:
        source: a reward model, of which a copy is made; the path or hub id of one; None for the policy's own backbone
            (an adapter merged in) under a head of zero, as for a language model in the place of a reward model.
        policy: gives dtype and mode.
        tokenizer: the policy's; the one in the folder of `source` has to agree with it.
        load: for `load_scorer`, where `source` is a name.

    Raises:
        ValueError: another tokenizer, a quantised model without an adapter, or weights spread by FSDP.
    """
    inner: Any = transformer_of(policy)
    critic, fresh = _copied(policy if source is None else source, inner, load, tokenizer)
    body: Any = transformer_of(critic)
    if is_quantized(body) and not isinstance(critic, PeftModel):
        raise ValueError("a quantised critic trains through an adapter only: share_critic, or pass an adapter's folder")
    if not isinstance(critic, PeftModel):  # whose adapter PEFT keeps in float32
        critic.to(inner.dtype)
    widen_head(body)
    if fresh:
        for parameter in reward_head_of(body).parameters():
            nn.init.zeros_(parameter)
    _as_critic(critic, body, tokenizer)
    return critic.train(policy.training)


def _copied(source: Any, policy: Any, load: dict[str, Any], tokenizer: Any) -> tuple[Any, bool]:
    """A model that is nobody else's, and whether its head is new."""
    if isinstance(source, str | Path):
        _check_tokenizer(str(source), tokenizer)
        return load_scorer(str(source), **{"dtype": policy.dtype} | load), not _has_head(str(source))
    if load:
        raise ValueError(f"{', '.join(load)} is for loading a critic by name, but {type(source).__name__} is a model")
    model = unwrapped(source)
    if isinstance(model, FSDPModule):
        raise ValueError("weights that FSDP spreads over ranks cannot be copied: pass the critic's path")
    if is_scorer(transformer_of(model)):
        return copy.deepcopy(model), False
    if is_quantized(transformer_of(model)):
        raise ValueError("a quantised policy cannot be copied as critic: share_critic, or pass a critic's path")
    return load_scorer(model), True


def _has_head(source: str) -> bool:
    if (Path(source) / "adapter_config.json").is_file():
        with_head = load_file(Path(source) / WEIGHTS)
        return any(f".{name}." in key for key in with_head for name in ("score", "classifier"))
    kinds = AutoConfig.from_pretrained(source).architectures or []
    return any("SequenceClassification" in kind for kind in kinds)


def _check_tokenizer(source: str, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Ids that the policy drew must mean the same to the critic. A folder without a tokenizer is taken at its word."""
    if tokenizer is None:
        return
    try:
        other = load_tokenizer(source)
    except (OSError, ValueError):
        return
    if other.get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"{source} has another tokenizer than the policy, so it would misread the policy's ids: pass a critic of "
            "the policy's family, or None for one that starts from the policy"
        )


def _as_critic(critic: Any, body: Any, tokenizer: Any) -> None:
    """What trains, and what a reward model has that a critic has no use for."""
    critic.requires_grad_(True)
    if isinstance(critic, PeftModel):
        critic.requires_grad_(False)
        critic.set_adapter(critic.active_adapter)
    if hasattr(body, LM_HEAD):  # DDP waits for gradients that would never come
        delattr(body, LM_HEAD)
    clear_normalization(critic)
    if body.config.pad_token_id is None and tokenizer is not None:
        body.config.pad_token_id = tokenizer.pad_token_id


# ---- parameters and files ------------------------------------------------------------------------------------------


def parameter_groups(policy: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The weights that train, "policy" and "critic", each in one of the two."""
    groups: dict[str, list[nn.Parameter]] = {"policy": [], "critic": []}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            groups["critic" if is_critics(name) else "policy"].append(parameter)
    return groups


def _found(policy: nn.Module) -> nn.Module:
    critic = critic_of(policy)
    if critic is None:
        raise ValueError(f"{type(unwrapped(policy)).__name__} has no critic: attach_critic or share_critic first")
    return critic


def _adapter(policy: nn.Module, critic: Any) -> tuple[dict[str, Tensor], Any]:
    """What is saved of a critic that has an adapter: weights, which are the live ones, and config."""
    if isinstance(critic, SharedCritic):
        owner = unwrapped(policy)
        return shared_weights(owner, critic), shared_config(owner, critic)
    return weights_of(critic, critic.active_adapter), copy.deepcopy(critic.active_peft_config)


def save_critic(policy: nn.Module, folder: str | Path) -> None:
    """Write the critic as a reward model, or as the adapter of one, that transformers or PEFT loads alone.

    With several processes, one writes.
    """
    critic, folder = _found(policy), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(critic, SharedCritic | PeftModel):
        critic.save_pretrained(folder)  # type: ignore[operator]
        return
    weights, config = _adapter(policy, critic)
    save_file({name: t.detach().cpu().clone().contiguous() for name, t in weights.items()}, folder / WEIGHTS)
    config.inference_mode = True
    config.save_pretrained(folder)


def load_critic(policy: nn.Module, folder: str | Path) -> None:
    """Read what `save_critic` wrote into the policy's critic, bit by bit; its parameters stay the same objects.

    Raises:
        ValueError: no critic, or a folder of another kind, size or shape; the critic is as it was.
    """
    critic, folder = _found(policy), Path(folder)
    adapted = isinstance(critic, SharedCritic | PeftModel)
    if adapted != (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} holds {'no ' if adapted else ''}adapter, unlike the policy's critic: pass another")
    if adapted:
        fill(_adapter(policy, critic)[0], load_file(folder / WEIGHTS), str(folder))
    else:  # through transformers, which stores some families' weights under other names
        saved = load_scorer(str(folder), dtype=critic.dtype)
        fill(critic.state_dict(), saved.state_dict(), str(folder))

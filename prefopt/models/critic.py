"""The critic of a policy in PPO: a reward model whose head is read at every token. Make, attach, save and load one.

A critic is a model of its own, or shares the policy's backbone (`shared_critic.py`). It is attached to the policy as an
auxiliary module (`auxiliary.py`), where `forward` reads "values" from it. It is saved as a reward model, which loads
without the policy.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import AutoConfig, PreTrainedTokenizerBase

from ..utils.files import require_folder
from .auxiliary import CRITIC, AuxiliaryModule, auxiliary_module, is_critic_parameter
from .heads import LM_HEAD, clear_normalization, is_scorer, reward_head_of, upcast_head
from .load import load_scorer
from .modes import is_quantized, without_dropout
from .peft_adapters import adapter_weights, always_save_policy_only, remove_adapter
from .precision import training_dtype
from .shared_critic import SharedCritic, copy_weights, shared_config, shared_weights
from .tokenizers import load_tokenizer
from .wrappers import base_transformer, unwrap_parallel

logger = logging.getLogger(__name__)

WEIGHTS = "adapter_model.safetensors"
"""The file of a saved critic's adapter."""


class SeparateCritic(AuxiliaryModule):
    """Holds a critic that is a model of its own."""

    model: nn.Module


def critic_of(policy: nn.Module) -> nn.Module | None:
    """Find a policy's critic.

    Args:
        policy: in any wrapping.

    Returns:
        The model that was given to `attach_critic`, or a `SharedCritic`; None without a critic.
    """
    holder = auxiliary_module(policy)
    return holder.model if isinstance(holder, SeparateCritic) else holder


def attach_critic(policy: nn.Module, critic: nn.Module, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Make a reward model the policy's critic, on the policy's device.

    Args:
        policy: not yet wrapped by DDP or prepared by accelerate, which would not see the new weights.
        critic: a reward model of any size, maybe with an adapter; `new_critic` makes one.
        tokenizer: the policy's. Without it the critic must read all ids that the policy's vocabulary has.

    Raises:
        ValueError: the model cannot be a critic of this policy; the message says why.
    """
    owner, critic = unwrap_parallel(policy), unwrap_parallel(critic)
    _check(policy, owner, critic)
    inner = base_transformer(owner)
    if not is_quantized(base_transformer(critic)):
        critic.to(inner.device)  # type: ignore[arg-type]
    _check_tokens(critic, inner, tokenizer)
    inner.add_module(CRITIC, SeparateCritic(model=critic))
    if isinstance(owner, PeftModel):
        always_save_policy_only(owner)


def detach_critic(policy: nn.Module) -> None:
    """Take a policy's critic off, of either kind, if it has one; the policy is then what it was before."""
    owner, holder = unwrap_parallel(policy), auxiliary_module(policy)
    if holder is None:
        return
    if isinstance(holder, SharedCritic):
        remove_adapter(owner, CRITIC)
    del base_transformer(owner)._modules[CRITIC]
    owner.__dict__.pop("save_pretrained", None)


def _check(policy: nn.Module, owner: Any, critic: Any) -> None:
    name = type(base_transformer(critic)).__name__
    if any(isinstance(model, FSDPModule) for model in (policy, owner, critic)):
        raise ValueError("weights that FSDP spreads over ranks cannot be put together: attach the critic before FSDP")
    if owner is critic or is_scorer(base_transformer(owner)):
        raise ValueError(f"{type(owner).__name__} is a reward model with values of its own: attach_critic to a policy")
    if auxiliary_module(owner) is not None:
        raise ValueError("the policy has a critic already: detach_critic(policy) first")
    if not is_scorer(base_transformer(critic)):
        raise ValueError(f"{name} has no reward head to read values from: make a critic of it with new_critic")
    if (labels := base_transformer(critic).config.num_labels) != 1:  # type: ignore[union-attr]
        raise ValueError(f"{name} has {labels} labels, and a critic says one value: load it with num_labels=1")
    if {id(p) for p in owner.parameters()} & {id(p) for p in critic.parameters()}:
        raise ValueError(f"{name} shares weights with the policy: pass a copy, or share_critic for one backbone")


def _check_tokens(critic: nn.Module, policy: Any, tokenizer: PreTrainedTokenizerBase | None) -> None:
    inner: Any = base_transformer(critic)
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
    """Whether a hidden state changes with a later token."""
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
    """Make a critic for `attach_critic`. All of it trains; of one that has an adapter, the adapter and the head.

    What a reward model stores to normalise its scores is left out of the copy: a critic predicts returns, and no
    scores. A plain model gets the dtype in which the policy trains, the head at least float32.

    Args:
        source: a reward model, of which a copy is made; the path or hub id of one; None for the policy's own backbone
            (an adapter merged in) under a head of zero, as for a language model in the place of a reward model.
        policy: gives dtype and mode.
        tokenizer: the policy's; the one in the folder of `source` has to agree with it.
        load: for `load_scorer`, where `source` is a path or hub id.

    Raises:
        ValueError: another tokenizer than the policy's, a quantised model without an adapter, or weights that FSDP
            spreads over processes.
    """
    dtype = training_dtype(policy)
    critic, has_new_head = _copied(policy if source is None else source, dtype, load, tokenizer)
    body: Any = base_transformer(critic)
    if is_quantized(body) and not isinstance(critic, PeftModel):
        raise ValueError("a quantised critic trains through an adapter only: share_critic, or pass an adapter's folder")
    if not isinstance(critic, PeftModel):  # whose adapter PEFT keeps in float32
        critic.to(dtype)
    upcast_head(body)
    if has_new_head:
        for parameter in reward_head_of(body).parameters():
            nn.init.zeros_(parameter)
    _prepare(critic, body, tokenizer)
    return critic.train(policy.training)


def _copied(source: Any, dtype: torch.dtype, load: dict[str, Any], tokenizer: Any) -> tuple[Any, bool]:
    """A model that the critic alone uses, and whether its head is new."""
    if isinstance(source, str | Path):
        _check_tokenizer(str(source), tokenizer)
        return load_scorer(str(source), **{"dtype": dtype} | load), not has_reward_head(str(source))
    if load:
        raise ValueError(f"{', '.join(load)} is for loading a critic by name, but {type(source).__name__} is a model")
    model = unwrap_parallel(source)
    if isinstance(model, FSDPModule):
        raise ValueError("weights that FSDP spreads over ranks cannot be copied: pass the critic's path")
    if is_scorer(base_transformer(model)):
        return copy.deepcopy(model), False
    if is_quantized(base_transformer(model)):
        raise ValueError("a quantised policy cannot be copied as critic: share_critic, or pass a critic's path")
    return load_scorer(model), True


def has_reward_head(source: str) -> bool:
    """Whether a folder, hub id or adapter's folder has a reward head that was saved with it."""
    if (Path(source) / "adapter_config.json").is_file():
        weights = load_file(Path(source) / WEIGHTS)
        return any(f".{name}." in key for key in weights for name in ("score", "classifier"))
    architectures = AutoConfig.from_pretrained(source).architectures or []
    return any("SequenceClassification" in name for name in architectures)


def _check_tokenizer(source: str, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Check that the policy's ids mean the same to the critic. A folder without a tokenizer is trusted."""
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


def _prepare(critic: Any, body: Any, tokenizer: Any) -> None:
    """Let adapter and head train, or all weights, and remove what a reward model has and a critic has no use for."""
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
    """The weights that train, under "policy" and "critic": each is in one of the two lists."""
    groups: dict[str, list[nn.Parameter]] = {"policy": [], "critic": []}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            groups["critic" if is_critic_parameter(name) else "policy"].append(parameter)
    return groups


def _existing_critic(policy: nn.Module) -> nn.Module:
    critic = critic_of(policy)
    if critic is None:
        raise ValueError(f"{type(unwrap_parallel(policy)).__name__} has no critic: attach_critic or share_critic first")
    return critic


def _adapter(policy: nn.Module, critic: Any) -> tuple[dict[str, Tensor], Any]:
    """What is saved of a critic that has an adapter: the weights, themselves and no copies, and the config."""
    if isinstance(critic, SharedCritic):
        owner = unwrap_parallel(policy)
        return shared_weights(owner, critic), shared_config(owner, critic)
    return adapter_weights(critic, critic.active_adapter), copy.deepcopy(critic.active_peft_config)


def critic_weights(policy: nn.Module) -> dict[str, Tensor]:
    """The weights that `save_critic` saves, under the names that it is to be given them by: themselves, no copies."""
    critic = _existing_critic(policy)
    if isinstance(critic, SharedCritic | PeftModel):
        return _adapter(policy, critic)[0]
    return critic.state_dict(keep_vars=True)


def save_critic(policy: nn.Module, folder: str | Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a policy's critic as a reward model, or as the adapter of one, that transformers or PEFT loads by itself.

    With several processes, one of them calls this.

    Args:
        weights: the whole of `critic_weights`, where each process has a part of them.

    Raises:
        ValueError: the policy has no critic.
    """
    critic, folder = _existing_critic(policy), Path(folder)
    require_folder(folder)
    if not isinstance(critic, SharedCritic | PeftModel):
        critic.save_pretrained(folder, state_dict=weights)  # type: ignore[operator]
        return
    own, config = _adapter(policy, critic)
    weights = own if weights is None else weights
    save_file({name: t.detach().cpu().clone().contiguous() for name, t in weights.items()}, folder / WEIGHTS)
    config.inference_mode = True
    config.save_pretrained(folder)


def load_critic(policy: nn.Module, folder: str | Path) -> None:
    """Read what `save_critic` wrote into the policy's critic, bit by bit. Its parameters stay the same objects.

    Raises:
        ValueError: the policy has no critic, or the folder holds one of another kind, size or shape; the critic is
            then as it was.
    """
    critic, folder = _existing_critic(policy), Path(folder)
    adapted = isinstance(critic, SharedCritic | PeftModel)
    if adapted != (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} holds {'no ' if adapted else ''}adapter, unlike the policy's critic: pass another")
    if adapted:
        copy_weights(load_file(folder / WEIGHTS), _adapter(policy, critic)[0], str(folder))
    else:  # through transformers, which stores some families' weights under other names
        saved = load_scorer(str(folder), dtype=critic.dtype)
        copy_weights(saved.state_dict(), critic.state_dict(keep_vars=True), str(folder))

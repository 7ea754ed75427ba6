"""The reference, which log-ratios are taken against: which kind a policy gets, and the cache of its log-probs.

Whether it is a copy of the policy, the policy without its adapter, or a copied adapter depends on what the trainer was
given, and is decided in `reference_for`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback

from ..batch import Batch, Outputs
from ..data.encode import stop_token_ids
from ..data.tokenizer_identity import vocabulary
from ..utils import files
from ..utils.flop_counter import scope
from ..utils.hashing import hash_of
from .auxiliary import is_critic_parameter
from .forward import forward
from .modes import computing_like, evaluating, freeze, is_quantized, without_dropout
from .peft_adapters import (
    REFERENCE_ADAPTER,
    copy_adapter,
    copy_model,
    preserved_adapter_state,
    rewrites_base,
    using_adapter,
)
from .weights import full_weight
from .wrappers import base_transformer

IGNORED_SETTINGS = {
    "_name_or_path",
    "name_or_path",
    "base_model_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
}
"""Entries of configs that change no output: where a model came from, or what its weights say too."""

SCOPE = "reference"
"""What FLOPs of the reference are counted as."""


class Reference(ABC):
    """Gives the outputs of a policy that training does not change: the policy as it was, or another model."""

    @abstractmethod
    def __call__(self, policy: nn.Module, batch: Batch, wants: frozenset[str]) -> Outputs:
        """Run the reference on a batch, without gradient.

        Args:
            policy: the trained model as the trainer wraps it.
            batch: on the policy's device.
            wants: names of fields of `Outputs`.
        """

    def weights(self, policy: nn.Module) -> dict[str, Tensor]:
        """The weights that its outputs depend on: those of the policy that do not train, unless it has its own."""
        return {name: p for name, p in _own_weights(_without_ddp(policy)).items() if not p.requires_grad}

    def settings(self, policy: nn.Module) -> dict[str, Any]:
        """The settings that its outputs depend on: the model's config and its adapters'."""
        return _settings(_without_ddp(policy))

    def blend(self, policy: nn.Module, alpha: float) -> None:
        """Move the reference towards the policy: ref <- alpha policy + (1 - alpha) ref. TR-DPO, arXiv:2404.09656.

        Raises:
            ValueError: the reference has no weights of its own, or others than the policy.
        """
        raise ValueError(
            f"sync_ref_model needs a reference with weights of its own, not {type(self).__name__}: train without an "
            "adapter"
        )


@dataclass(frozen=True)
class FrozenModel(Reference):
    """A reference with a model of its own: the one given as `ref_model`, or a copy of the policy before training."""

    model: nn.Module

    def __call__(self, policy: nn.Module, batch: Batch, wants: frozenset[str]) -> Outputs:
        with torch.no_grad(), scope(SCOPE), computing_like(policy, self.model):
            return forward(self.model, batch, wants)

    def weights(self, policy: nn.Module) -> dict[str, Tensor]:
        return self.model.state_dict()

    def settings(self, policy: nn.Module) -> dict[str, Any]:
        return _settings(self.model)

    def blend(self, policy: nn.Module, alpha: float) -> None:
        source = dict(_without_ddp(policy).named_parameters())
        for name, parameter in self.model.named_parameters():
            if name not in source or source[name].shape != parameter.shape:
                raise ValueError(
                    f"sync_ref_model blends weight by weight, and the policy has no {name} of shape "
                    f"{tuple(parameter.shape)}: train without an adapter, from a model like ref_model"
                )
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.lerp_(source[name].to(parameter), alpha)


@dataclass(frozen=True)
class PolicyBeforeTraining(Reference):
    """The policy itself, where the reference is only run before the policy trains: no second copy in memory."""

    def __call__(self, policy: nn.Module, batch: Batch, wants: frozenset[str]) -> Outputs:
        with torch.no_grad(), scope(SCOPE), evaluating(policy):
            return forward(policy, batch, wants)

    def weights(self, policy: nn.Module) -> dict[str, Tensor]:
        return _without_ddp(policy).state_dict()


@dataclass(frozen=True)
class AdapterOff(Reference):
    """The base model under the policy's adapter, which is switched off: no second copy in memory."""

    def __call__(self, policy: nn.Module, batch: Batch, wants: frozenset[str]) -> Outputs:
        inner = _without_ddp(policy)
        adapter_off = inner.disable_adapter()
        with torch.no_grad(), scope(SCOPE), without_dropout(policy), preserved_adapter_state(inner), adapter_off:
            return forward(policy, batch, wants)

    def settings(self, policy: nn.Module) -> dict[str, Any]:
        return {"": _settings(_without_ddp(policy))[""]}


@dataclass(frozen=True)
class AdapterCopy(Reference):
    """A frozen copy of the policy's adapter as it was before training, on the policy's own backbone."""

    def __call__(self, policy: nn.Module, batch: Batch, wants: frozenset[str]) -> Outputs:
        with (
            torch.no_grad(),
            scope(SCOPE),
            without_dropout(policy),
            using_adapter(_without_ddp(policy), REFERENCE_ADAPTER),
        ):
            return forward(policy, batch, wants)


def reference_for(
    model: nn.Module,
    ref_model: nn.Module | None,
    *,
    fresh_adapter: bool,
    before_training: bool = False,
    dtype: torch.dtype | None = None,
) -> Reference:
    """Decide which reference a policy has, and make the copy that it needs.

    ============================== ==============================================================
    `ref_model` given              that model, frozen
    plain model                    a frozen copy of the model handed in
    plain model + `peft_config`    the policy with its adapter switched off
    model that carries an adapter  a frozen copy of that adapter
    ============================== ==============================================================

    Adapters whose initialisation rewrites the base weights (PiSSA and its kin) are copied too: switched off, they
    would leave a model that nobody trained. Adapters that train biases of the base model share them with whatever runs
    on it, so there the whole model is copied.

    Args:
        model: the policy, not yet wrapped.
        ref_model: the reference that a user gives.
        fresh_adapter: the policy's adapter is new, and leaves the model as it was.
        before_training: the reference is only run before training, so that no copy is needed.
        dtype: of the weights of a copy of the whole model; by default those of the model.

    Raises:
        ValueError: `ref_model` is the policy itself, the policy cannot be copied, or a `dtype` for a reference that has
            no weights of its own, or for a model that is there already in another.
    """
    if ref_model is not None:
        if ref_model is model:
            raise ValueError("ref_model is the policy itself, so it would train too: leave it out to use a frozen copy")
        check_whole(ref_model)
        _check_dtype(ref_model, dtype)
        return FrozenModel(freeze(ref_model))
    if not isinstance(model, PeftModel):
        check_whole(model)
    if before_training and not isinstance(model, PeftModel):
        _refuse_dtype(dtype, "precompute_ref_log_probs runs the policy itself before it trains")
        return PolicyBeforeTraining()
    if isinstance(model, FSDPModule):
        raise ValueError(
            "weights that FSDP spreads over ranks cannot be copied for a reference: pass ref_model, or set "
            "precompute_ref_log_probs=True, which needs no copy"
        )
    if not isinstance(model, PeftModel) or getattr(model.active_peft_config, "bias", "none") != "none":
        if is_quantized(base_transformer(model)):
            _refuse_dtype(dtype, "a copy of a quantised model stays quantised")
        return FrozenModel(freeze(copy_model(model, dtype)))
    _refuse_dtype(dtype, "the reference is the model under the adapter, which the policy runs on too")
    if fresh_adapter and not rewrites_base(model.active_peft_config):
        return AdapterOff()
    copy_adapter(model)
    return AdapterCopy()


def _check_dtype(ref_model: nn.Module, dtype: torch.dtype | None) -> None:
    """Refuse a dtype that a model which was handed in does not have; its head may be in float32."""
    found = next((p.dtype for p in ref_model.parameters() if p.is_floating_point()), None)
    if dtype is not None and found != dtype:
        raise ValueError(
            f"reference_dtype={_name(dtype)}, and ref_model is a model in {_name(found)}: give its name, or load it by "
            f"from_pretrained(..., dtype={_name(dtype)!r}) and leave reference_dtype out"
        )


def _refuse_dtype(dtype: torch.dtype | None, why: str) -> None:
    if dtype is not None:
        raise ValueError(
            f"reference_dtype={_name(dtype)} is for a reference with weights of its own, and {why}: leave it out, or "
            "pass ref_model"
        )


def _name(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")


def check_whole(model: nn.Module) -> None:
    """Refuse a model that ZeRO-3 spreads over processes where it is loaded, which only DeepSpeed's engine can run.

    Raises:
        ValueError: it is one.
    """
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise ValueError(
            "under ZeRO-3 a model that is loaded by its path is in parts, and can be no reference: train an adapter "
            "(use_peft), which needs none, or launch this with examples/accelerate/fsdp2.yaml or zero2.yaml"
        )


def _own_weights(model: nn.Module) -> dict[str, Tensor]:
    """The policy's own weights: nothing that it says depends on its critic's."""
    return {name: p for name, p in model.named_parameters() if not is_critic_parameter(name)}


def _without_ddp(policy: nn.Module) -> Any:
    from accelerate.utils import extract_model_from_parallel

    return extract_model_from_parallel(policy)


class SyncReference(TrainerCallback):
    """Moves the reference towards the policy at every `every`-th optimizer step. TR-DPO, arXiv:2404.09656."""

    def __init__(self, reference: Reference, alpha: float, every: int):
        self.reference, self.alpha, self.every = reference, alpha, every

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **kwargs: Any) -> None:
        if state.global_step % self.every == 0 and model is not None:
            self.reference.blend(model, self.alpha)


def fingerprint(
    weights: Mapping[str, Tensor], tokenizer: Any, rows: Iterable[Mapping[str, Any]], settings: Any = None
) -> str:
    """Hash all that the reference's log-probs depend on.

    Args:
        weights: `Reference.weights`.
        tokenizer: whose vocabulary and chat template count.
        rows: encoded rows, with `prompt_ids` and `response_ids`.
        settings: `Reference.settings` and whatever else changes log-probs; anything that JSON can write.
    """
    hasher = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(weights.items()):
        hasher.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        hasher.update(full_weight(tensor).cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    for part in (settings, vocabulary(tokenizer), getattr(tokenizer, "chat_template", None)):
        hasher.update(json.dumps(part, sort_keys=True, default=_as_json).encode())
    for row in rows:
        hasher.update(json.dumps([row["prompt_ids"], row["response_ids"]]).encode())
    return hasher.hexdigest()


def policy_fingerprint(policy: nn.Module, tokenizer: Any) -> str:
    """Hash all that a policy's responses depend on: samples on disk say by it which policy they were sampled from.

    The tokens that end a response count; ids that padding needs, and what Trainer writes into a config, do not.

    Args:
        policy: in any wrapping.
        tokenizer: the policy's.
    """
    inner = _without_ddp(policy)
    settings = {
        part: {name: value for name, value in config.items() if not _changes_no_response(name)}
        for part, config in _settings(inner).items()
    }
    stop_ids = sorted(stop_token_ids(tokenizer, getattr(inner, "generation_config", None)))
    return fingerprint(_own_weights(inner), tokenizer, (), [settings, stop_ids])


def _changes_no_response(name: str) -> bool:
    return name == "use_cache" or name.endswith("_token_id")


def _as_json(value: Any) -> Any:
    """A value that JSON lacks, the same in every process, as the order of a set is not."""
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


def _settings(model: Any) -> dict[str, Any]:
    adapters = {name: config.to_dict() for name, config in getattr(model, "peft_config", {}).items()}
    configs = {"": model.config.to_dict(), **adapters}
    return {part: {k: v for k, v in config.items() if k not in IGNORED_SETTINGS} for part, config in configs.items()}


def cache_path(key: str) -> Path:
    """Where log-probs with this fingerprint are kept: below $PREFOPT_CACHE, else below the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    folder = Path(os.environ.get("PREFOPT_CACHE", Path(base) / "prefopt"))
    return folder / "ref_logps" / f"{key}.safetensors"


def read_cache(path: Path) -> Tensor | None:
    """Log-probs that `write_cache` kept, token after token: [sum of response lengths]; None if they are damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            logps, known = file.get_tensor("ref_logps"), (file.metadata() or {}).get("hash")
    except (OSError, SafetensorError):
        return None
    return logps if known in (None, _hash(logps)) else None  # earlier versions kept no hash


def write_cache(path: Path, logps: Tensor) -> None:
    """Keep log-probs for later runs. A run that dies here leaves nothing that a later one would trust.

    Several runs may write the same log-probs at the same time, so each has a file of its own until it is whole.

    Raises:
        OSError: the file could not be written, as on a full disk; the message names it.
    """

    def write(staged: Path) -> None:
        try:
            save_file({"ref_logps": logps.contiguous()}, staged, {"hash": _hash(logps)})
        except SafetensorError as error:  # which says the number of the system's error, and not the file
            number = re.search(r"os error (\d+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code), str(path)) from error

    files.replace(path, write, staging=f".{os.getpid()}.staging")


def _hash(logps: Tensor) -> str:
    return hash_of([f"{logps.dtype} {tuple(logps.shape)}".encode(), logps.contiguous().numpy().data])

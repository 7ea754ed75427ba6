"""The frozen policy that log-ratios are taken against: a copy, the adapter switched off, a copied adapter, or a cache.

Which one it is depends on what the trainer was given, and is decided in one place, `reference_for`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback

from ..batch import Batch, Outputs
from ..data.encode import stop_token_ids
from ..utils import files
from ..utils.flop_counter import purpose
from .auxiliary import is_critics
from .forward import forward
from .modes import evaluating, freeze, without_dropout
from .peft_adapters import COPY, active, copy_adapter, rewrites_base, same_gradients
from .weights import whole

UNTOLD = {"_name_or_path", "name_or_path", "base_model_name_or_path", "transformers_version", "architectures", "dtype"}
"""What a config says about where a model came from, or again about its weights."""

REFERENCE = "reference"
"""What its passes are counted as."""


class Reference(ABC):
    """Gives the outputs of a policy that training does not change."""

    @abstractmethod
    def __call__(self, policy: nn.Module, batch: Batch, wants: frozenset[str]) -> Outputs:
        """Outputs under the reference, without gradient. `policy` is the trained model as the trainer wraps it."""

    def weights(self, policy: nn.Module) -> dict[str, Tensor]:
        """What its outputs depend on: the weights of the policy that do not train, unless it has its own."""
        return {name: p for name, p in _own_weights(_unwrapped(policy)).items() if not p.requires_grad}

    def settings(self, policy: nn.Module) -> dict[str, Any]:
        """What its outputs depend on beside the weights: the model's config and the adapter's."""
        return _settings(_unwrapped(policy))

    def blend(self, policy: nn.Module, alpha: float) -> None:
        """Move the reference towards the policy, as TR-DPO does (arXiv:2404.09656): ref <- a policy + (1 - a) ref."""
        raise ValueError(
            f"sync_ref_model needs a reference with weights of its own, not {type(self).__name__}: train without an "
            "adapter"
        )


@dataclass(frozen=True)
class FrozenModel(Reference):
    """A model of its own: the one handed in as `ref_model`, or a copy of the policy as it was handed in."""

    model: nn.Module

    def __call__(self, policy: nn.Module, batch: Batch, wants: frozenset[str]) -> Outputs:
        with torch.no_grad(), purpose(REFERENCE):
            return forward(self.model, batch, wants)

    def weights(self, policy: nn.Module) -> dict[str, Tensor]:
        return self.model.state_dict()

    def settings(self, policy: nn.Module) -> dict[str, Any]:
        return _settings(self.model)

    def blend(self, policy: nn.Module, alpha: float) -> None:
        source = dict(_unwrapped(policy).named_parameters())
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
class AsHandedIn(Reference):
    """The policy itself, for log-probs that are all computed before it trains: no second copy in memory."""

    def __call__(self, policy: nn.Module, batch: Batch, wants: frozenset[str]) -> Outputs:
        with torch.no_grad(), purpose(REFERENCE), evaluating(policy):
            return forward(policy, batch, wants)

    def weights(self, policy: nn.Module) -> dict[str, Tensor]:
        return _unwrapped(policy).state_dict()


@dataclass(frozen=True)
class AdapterOff(Reference):
    """The base model under the policy's fresh adapter: no second copy in memory."""

    def __call__(self, policy: nn.Module, batch: Batch, wants: frozenset[str]) -> Outputs:
        inner = _unwrapped(policy)
        off = inner.disable_adapter()
        with torch.no_grad(), purpose(REFERENCE), without_dropout(policy), same_gradients(inner), off:
            return forward(policy, batch, wants)

    def settings(self, policy: nn.Module) -> dict[str, Any]:
        return {"": _settings(_unwrapped(policy))[""]}


@dataclass(frozen=True)
class AdapterCopy(Reference):
    """A frozen copy of the adapter as it was handed in, on the policy's own backbone."""

    def __call__(self, policy: nn.Module, batch: Batch, wants: frozenset[str]) -> Outputs:
        with torch.no_grad(), purpose(REFERENCE), without_dropout(policy), active(_unwrapped(policy), COPY):
            return forward(policy, batch, wants)


def reference_for(
    model: nn.Module, ref_model: nn.Module | None, *, fresh_adapter: bool, once: bool = False
) -> Reference:
    """Which reference a policy has; `once` says that it is asked only before training, so that no copy is needed.

    ============================== ==============================================================
    `ref_model` given              that model, frozen
    plain model                    a frozen copy of the model handed in
    plain model + `peft_config`    the policy with its adapter switched off
    model that carries an adapter  a frozen copy of that adapter
    ============================== ==============================================================

    Adapters whose initialisation rewrites the base weights (PiSSA and its kin) are copied too: switched off, they
    would leave a model that nobody trained. Adapters that train biases of the base model share them with whatever runs
    on it, so there the whole model is copied.
    """
    if ref_model is not None:
        if ref_model is model:
            raise ValueError("ref_model is the policy itself, so it would train too: leave it out to use a frozen copy")
        return FrozenModel(freeze(ref_model))
    if once and not isinstance(model, PeftModel):
        return AsHandedIn()
    if isinstance(model, FSDPModule):
        raise ValueError(
            "weights that FSDP spreads over ranks cannot be copied for a reference: pass ref_model, or set "
            "precompute_ref_log_probs=True, which needs no copy"
        )
    if not isinstance(model, PeftModel) or getattr(model.active_peft_config, "bias", "none") != "none":
        return FrozenModel(freeze(copy.deepcopy(model)))
    if fresh_adapter and not rewrites_base(model.active_peft_config):
        return AdapterOff()
    copy_adapter(model)
    return AdapterCopy()


def _own_weights(model: nn.Module) -> dict[str, Tensor]:
    """The policy's, without those of a critic beside it, on which nothing that it says depends."""
    return {name: p for name, p in model.named_parameters() if not is_critics(name)}


def _unwrapped(policy: nn.Module) -> Any:
    from accelerate.utils import extract_model_from_parallel

    return extract_model_from_parallel(policy)


class SyncReference(TrainerCallback):
    """TR-DPO (arXiv:2404.09656): every so many steps the reference moves towards the policy."""

    def __init__(self, reference: Reference, alpha: float, every: int):
        self.reference, self.alpha, self.every = reference, alpha, every

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **kwargs: Any) -> None:
        if state.global_step % self.every == 0 and model is not None:
            self.reference.blend(model, self.alpha)


def fingerprint(
    weights: Mapping[str, Tensor], tokenizer: Any, rows: Iterable[Mapping[str, Any]], settings: Any = None
) -> str:
    """A hash of all that reference log-probs depend on: weights, settings, tokenizer, chat template and token ids."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(whole(tensor).cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    for part in (settings, _vocabulary(tokenizer), getattr(tokenizer, "chat_template", None)):
        digest.update(json.dumps(part, sort_keys=True, default=_plain).encode())
    for row in rows:
        digest.update(json.dumps([row["prompt_ids"], row["response_ids"]]).encode())
    return digest.hexdigest()


def version_of(policy: nn.Module, tokenizer: Any) -> str:
    """A hash of all that a policy's responses depend on, whatever it was trained to: of drawn text, the policy's name.

    Which tokens end a response counts; ids that padding needs, and what Trainer writes into a config, do not.
    """
    inner = _unwrapped(policy)
    told = {part: {k: v for k, v in each.items() if not _passing(k)} for part, each in _settings(inner).items()}
    ends = sorted(stop_token_ids(tokenizer, getattr(inner, "generation_config", None)))
    return fingerprint(_own_weights(inner), tokenizer, (), [told, ends])


def _passing(name: str) -> bool:
    return name == "use_cache" or name.endswith("_token_id")


def _plain(value: Any) -> Any:
    """What JSON lacks, the same in every process: the order of a set is not."""
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


def _vocabulary(tokenizer: Any) -> Any:
    """How text becomes ids; padding and truncation are left out, as any call of the tokenizer may set them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return sorted(tokenizer.get_vocab().items())
    return {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}


def _settings(model: Any) -> dict[str, Any]:
    adapters = {name: config.to_dict() for name, config in getattr(model, "peft_config", {}).items()}
    configs = {"": model.config.to_dict(), **adapters}
    return {name: {k: v for k, v in config.items() if k not in UNTOLD} for name, config in configs.items()}


def cache_path(key: str) -> Path:
    """Where log-probs with this fingerprint are kept: under $PREFOPT_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    folder = Path(os.environ.get("PREFOPT_CACHE", Path(base) / "prefopt"))
    return folder / "ref_logps" / f"{key}.safetensors"


def read_cache(path: Path) -> Tensor:
    return load_file(path)["ref_logps"]


def write_cache(path: Path, logps: Tensor) -> None:
    """Keep log-probs for later runs. A run that dies here leaves nothing that a later one would trust.

    Several runs may write the same log-probs at the same time, so each has a file of its own until it is whole.
    """
    content = {"ref_logps": logps.contiguous()}
    files.replace(path, lambda staged: save_file(content, staged), staging=f".{os.getpid()}.staging")

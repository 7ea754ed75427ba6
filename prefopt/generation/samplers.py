"""Who samples between trainings: prefopt itself (`OwnSampler`), or vLLM (`VLLMSampler`).

A loop that samples has a sampler, and samples from what that makes of the policy as it is at the time:

    with sampler.serving(policy, folder) as served:
        generate_into(pool, served, ...)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from peft import PeftModel

from ..models.modes import is_quantized
from ..models.reference import policy_fingerprint
from ..models.wrappers import unwrap_parallel
from ..objectives.engine_arguments import DTYPES, EngineArguments
from ..utils.distributed import world_size
from .vllm import VLLM, check_served

Folder = Callable[[], AbstractContextManager[str]]
"""Brings a folder with the policy as it is, or its hub id, for as long as it is sampled from."""

OWN = "prefopt"
"""The identity of prefopt's own engine."""


def folder_at(place: str) -> Folder:
    """The folder of a policy that stays as it is, or its hub id."""
    return lambda: nullcontext(place)


class Sampler(Protocol):
    """Makes of a policy what `sample` takes."""

    def identity(self, policy: Any) -> str:
        """What samples, as run.json has it: what has another identity samples other responses."""
        ...

    def check(self, policy: Any, *, trains: bool) -> None:
        """Refuse a policy that cannot be sampled so, before anything is sampled.

        Args:
            trains: it is sampled from again when it has been trained.

        Raises:
            ValueError: it cannot; the message says what to do.
        """
        ...

    def serving(self, policy: Any, folder: Folder) -> AbstractContextManager[Any]:
        """The policy as `sample` takes it; whatever serves it is gone afterwards."""
        ...


class OwnSampler:
    """Samples from the model in memory."""

    def identity(self, policy: Any) -> str:
        return OWN

    def check(self, policy: Any, *, trains: bool) -> None: ...

    @contextmanager
    def serving(self, policy: Any, folder: Folder) -> Iterator[Any]:
        yield policy


class VLLMSampler:
    """Samples by vLLM from the policy's folder, one engine a process, which is started when it is first asked.

    Args:
        arguments: say by which vLLM, and how.
        located: for loading the policy, such as its `revision` on the hub.
    """

    def __init__(self, arguments: EngineArguments, **located: Any):
        self.arguments, self.located = arguments, located

    def identity(self, policy: Any) -> str:
        return "vllm-server" if self.arguments.on_server else f"vllm-{self._dtype(policy)}"

    def check(self, policy: Any, *, trains: bool) -> None:
        inner = unwrap_parallel(policy)
        adapter = inner.active_peft_config if isinstance(inner, PeftModel) else None
        if self._dtype(inner) not in DTYPES:
            raise ValueError(f"use_vllm: vLLM does not compute in {self._dtype(inner)}: set vllm_dtype=float32")
        if is_quantized(inner):
            raise ValueError("use_vllm: vLLM would serve the policy unquantised, as another one: load it in 16 bits")
        if adapter is not None:
            check_served(adapter, "the policy")
            if not adapter.base_model_name_or_path:
                raise ValueError(
                    "use_vllm: vLLM serves the policy's adapter on its base, which has no folder: save the base, and "
                    "load it from there"
                )
        elif trains and self.arguments.on_server:
            raise ValueError(
                "vllm_server_base_url: a server is given adapters, and not the weights of a policy that trains as a "
                "whole: train an adapter (use_peft), or give vllm_python in the place of the URL"
            )
        if self.arguments.vllm_tensor_parallel_size > 1 and world_size() > 1:
            raise ValueError(
                f"vllm_tensor_parallel_size={self.arguments.vllm_tensor_parallel_size}: each of the {world_size()} "
                "processes has an engine on its own device: leave it out, or start one process"
            )

    @contextmanager
    def serving(self, policy: Any, folder: Folder) -> Iterator[Any]:
        given = self.arguments
        engine: dict[str, Any] = {
            "dtype": self._dtype(policy),
            "gpu_memory_utilization": given.vllm_gpu_memory_utilization,
            "tensor_parallel_size": given.vllm_tensor_parallel_size,
        }
        if given.vllm_max_model_length is not None:
            engine["max_model_len"] = given.vllm_max_model_length
        python, url = given.vllm_python, given.vllm_server_base_url
        with folder() as place, VLLM(place, python=python, url=url, **engine, **self.located) as served:
            served.generation_config = policy.generation_config
            yield served

    def _dtype(self, policy: Any) -> str:
        """Named always: left open, vLLM takes another one than the weights are in."""
        return self.arguments.vllm_dtype or str(unwrap_parallel(policy).dtype).removeprefix("torch.")


def version_of(policy: Any, tokenizer: Any, sampler: Sampler) -> str:
    """What a policy's responses are filed under: those of two policies, or of two engines, are not mixed."""
    fingerprint, identity = policy_fingerprint(policy, tokenizer), sampler.identity(policy)
    return fingerprint if identity == OWN else f"{fingerprint}-{identity}"


def sampler_from(settings: Any, **located: Any) -> Sampler:
    """Who samples by these settings, if they say; else prefopt itself.

    Args:
        located: for loading the policy, such as its `revision` on the hub.
    """
    uses = isinstance(settings, EngineArguments) and settings.use_vllm
    return VLLMSampler(settings, **located) if uses else OwnSampler()

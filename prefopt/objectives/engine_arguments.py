"""Settings of who samples responses between trainings: prefopt itself, or vLLM. Values, help texts, ranges; no engine.

The names are those of TRL's trainers where they mean the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..utils.options import option

MODES = ("colocate", "server")
DTYPES = ("float32", "bfloat16", "float16")
COLDEST, HOTTEST = 0.01, 2.0
"""vLLM raises any temperature between 0 and the first to it, and refuses one above the second (its sampling_params)."""


@dataclass(kw_only=True)
class EngineArguments:
    """Who samples."""

    use_vllm: bool = option(
        False,
        "Sample responses by vLLM, in processes of its own, which are closed before anything trains.",
    )
    vllm_mode: str | None = option(
        None,
        "`colocate` starts vLLM here, one engine a process and device; `server` asks the one at vllm_server_base_url. "
        "None is `server` where that is given.",
        choices=list(MODES),
    )
    vllm_python: str | None = option(
        None,
        "The Python of an environment that has vLLM, such as ~/vllm/bin/python, as vLLM pins torch and transformers; "
        "None is the one that runs this.",
    )
    vllm_server_base_url: str | None = option(
        None,
        "The URL of a server, such as http://localhost:8000, that `vllm serve` started with the policy or, for a "
        "policy with a LoRA adapter, with its base. A key is read from VLLM_API_KEY.",
    )
    vllm_dtype: str | None = option(
        None,
        "What vLLM computes in; None is the dtype of the policy's weights. In 16 bits a response may depend on what is "
        "sampled beside it.",
        choices=list(DTYPES),
    )
    vllm_gpu_memory_utilization: float = option(
        0.3, "The share of a device's memory (on CPUs, of the machine's) that an engine may take."
    )
    vllm_max_model_length: int | None = option(
        None, "The longest prompt with its response that an engine makes room for; None is the model's context."
    )
    vllm_tensor_parallel_size: int = option(1, "How many devices an engine spreads the policy over.")

    @property
    def on_server(self) -> bool:
        """Whether a server samples."""
        return self.vllm_mode == "server" or (self.vllm_mode is None and self.vllm_server_base_url is not None)

    def check_engine(self) -> None:
        """Raise ValueError for a setting that cannot be, or that nobody would read."""
        if not self.use_vllm:
            given = changed_settings(self)
            if given:
                raise ValueError(f"{given[0]}={getattr(self, given[0])!r} means nothing without use_vllm: set it too")
            return
        if self.vllm_mode not in (None, *MODES):
            raise ValueError(f"vllm_mode={self.vllm_mode!r}: choose one of {', '.join(MODES)}")
        if self.vllm_dtype not in (None, *DTYPES):
            raise ValueError(f"vllm_dtype={self.vllm_dtype!r}: choose one of {', '.join(DTYPES)}")
        if not 0 < self.vllm_gpu_memory_utilization <= 1:
            raise ValueError(f"vllm_gpu_memory_utilization={self.vllm_gpu_memory_utilization} must lie in (0, 1]")
        for name in ("vllm_max_model_length", "vllm_tensor_parallel_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.on_server != (self.vllm_server_base_url is not None):
            raise ValueError(
                f"vllm_mode={self.vllm_mode!r}, vllm_server_base_url={self.vllm_server_base_url!r}: `server` needs a "
                "URL, and `colocate` has none"
            )
        if self.on_server and (unread := [name for name in changed_settings(self) if name in _OF_ENGINES]):
            raise ValueError(f"{unread[0]} is for engines that are started here: start the server with it instead")

    def check_vllm(self, source: str, temperatures: Sequence[float]) -> None:
        """Raise ValueError for settings that cannot be, and for sampling that vLLM does not do, or would change."""
        self.check_engine()
        if not self.use_vllm:
            return
        if source != "sampling":
            raise ValueError(f"source={source!r}: vLLM has no diverse beam search: leave out use_vllm, or source")
        for temperature in temperatures:
            check_temperature(temperature)


_OF_ENGINES = ("vllm_python", "vllm_dtype", "vllm_gpu_memory_utilization", "vllm_tensor_parallel_size")


def changed_settings(arguments: Any) -> list[str]:
    """The names of vLLM's settings that have another value than their default."""
    defaults = {field.name: field.default for field in fields(EngineArguments) if field.name != "use_vllm"}
    return [name for name, default in defaults.items() if getattr(arguments, name) != default]


def check_temperature(temperature: float) -> None:
    """Raise ValueError for a temperature that vLLM would change or refuse."""
    if 0 < temperature < COLDEST or temperature > HOTTEST:
        raise ValueError(
            f"temperature={temperature}: vLLM samples from {COLDEST} to {HOTTEST:g}; 0 takes the likeliest token"
        )

"""A place beside the policy for what trains with it and is no part of it. Knows no adapter and no head.

What is there is a submodule, so that DDP wraps it, devices and modes reach it and optimizers find it; but it is in no
state dict of the policy's, so that nothing that saves or loads the policy meets it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from torch import nn

CRITIC = "prefopt_critic"
"""The submodule, and the adapter of a critic that shares the policy's backbone."""


class Beside(nn.Module):
    """Holds modules that are left out of the state dicts of the model that it is part of."""

    def __init__(self, **modules: nn.Module):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_post_hook(_never_missing)


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        del state[name]


def _never_missing(module: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if not is_critics(name)]


def is_critics(name: str) -> bool:
    """A parameter's name: is it one of the critic's?"""
    return CRITIC in name.split(".")


def unwrapped(model: nn.Module) -> Any:
    """The model without DDP, FSDP or compilation; an adapter stays."""
    from accelerate.utils import extract_model_from_parallel

    return extract_model_from_parallel(model, keep_torch_compile=False)


def transformer_of(model: nn.Module) -> nn.Module:
    """The transformers model under every wrapper, whatever its adapter is."""
    inner = unwrapped(model)
    return inner.get_base_model() if isinstance(inner, PeftModel) else inner


def beside(model: nn.Module) -> Beside | None:
    """What is there, if anything."""
    return transformer_of(model)._modules.get(CRITIC)  # type: ignore[return-value]


@contextmanager
def alone(model: nn.Module) -> Iterator[None]:
    """The place is empty for a while, so that what walks the policy's modules leaves the critic's alone."""
    inner = transformer_of(model)
    critic = inner._modules.pop(CRITIC, None)
    try:
        yield
    finally:
        if critic is not None:
            inner._modules[CRITIC] = critic

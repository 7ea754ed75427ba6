"""Where a critic is kept: in an auxiliary module of the policy, which trains with the policy and is not saved with it.

The auxiliary module is a submodule of the policy's transformers model, so that DDP wraps it, devices and training modes
reach it and optimizers find its weights. It is left out of the policy's state dicts, so that nothing meets it that
saves or loads the policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from .wrappers import base_transformer

CRITIC = "prefopt_critic"
"""The name of the auxiliary module, and of the adapter of a critic that shares the policy's backbone."""


class AuxiliaryModule(nn.Module):
    """Holds modules that are left out of the state dicts of the model that they are attached to."""

    def __init__(self, **modules: nn.Module):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_post_hook(_ignore_missing)


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        del state[name]


def _ignore_missing(module: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if not is_critic_parameter(name)]


def is_critic_parameter(name: str) -> bool:
    """Whether a parameter with this name, in a policy, belongs to the policy's critic."""
    return CRITIC in name.split(".")


def auxiliary_module(model: nn.Module) -> AuxiliaryModule | None:
    """The auxiliary module of a policy, None without one. Any wrapping of the policy will do."""
    return base_transformer(model)._modules.get(CRITIC)  # type: ignore[return-value]


@contextmanager
def policy_only(model: nn.Module) -> Iterator[None]:
    """Take the auxiliary module out of the policy inside the block, for code that walks the policy's modules."""
    inner = base_transformer(model)
    critic = inner._modules.pop(CRITIC, None)
    try:
        yield
    finally:
        if critic is not None:
            inner._modules[CRITIC] = critic

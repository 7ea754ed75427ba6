"""How a model's modules are set while it runs: training or evaluation, with or without dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def freeze(model: nn.Module) -> nn.Module:
    """Evaluation mode, and no weight takes gradients."""
    return model.eval().requires_grad_(False)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in evaluation mode, each module's own mode restored after."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout to zero: log-ratios compare two passes, which must not differ by chance."""
    for module, name, _ in _dropouts(model):
        setattr(module, name, 0.0)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """No dropout for a while, in whatever mode the modules are.

    Evaluation mode would do the same for a plain model, but quantised layers compute differently in the two modes, so
    a reference on the policy's own layers has to run in the policy's mode.
    """
    rates = _dropouts(model)
    disable_dropout(model)
    try:
        yield
    finally:
        for module, name, rate in rates:
            setattr(module, name, rate)


def _dropouts(model: nn.Module) -> list[tuple[nn.Module, str, float]]:
    """(module, attribute, rate): dropout modules, and attention layers that keep their rate as a number."""
    found = []
    for module in model.modules():
        for name, value in vars(module).items():
            # attention_dropout, attn_pdrop, layerdrop: every family has its own names
            if isinstance(value, float) and ("drop" in name or (name == "p" and isinstance(module, nn.Dropout))):
                found.append((module, name, value))
    return found

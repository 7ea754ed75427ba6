"""Activation checkpointing runs layers a second time in the backward pass: here they run in the same context again.

By then all around the layers has changed back: another adapter is active, say, or another attention kernel, and the
gradients would be wrong without an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import nn

MakeContext = Callable[[], AbstractContextManager[Any]]
"""Returns a new context manager each time it is called."""

_CHECKPOINT_FUNCTIONS = ("_gradient_checkpointing_func", "checkpoint_fn")
"""Where modules keep the function that checkpoints them: transformers' layers, torch's `checkpoint_wrapper`."""


@contextmanager
def checkpointed_context(model: nn.Module, make_context: MakeContext) -> Iterator[None]:
    """Run the block in a context, and later in the same kind of context each layer that was checkpointed in the block.

    Reentrant checkpoints and others alike.

    Args:
        model: the model that the block runs.
        make_context: makes the context; called again for each layer that a backward pass runs again.
    """
    patched = [
        (m, name, m.__dict__[name]) for m in model.modules() for name in _CHECKPOINT_FUNCTIONS if name in m.__dict__
    ]
    for module, name, checkpoint in patched:
        setattr(module, name, _in_context(checkpoint, make_context))
    try:
        with make_context():
            yield
    finally:
        for module, name, checkpoint in patched:
            setattr(module, name, checkpoint)


def _in_context(checkpoint: Any, make_context: MakeContext) -> Callable[..., Any]:
    """A checkpoint function like `checkpoint` that runs layers in the context, the first time and again."""

    def checkpoint_in_context(run: Callable[..., Any], *args: Any, **named: Any) -> Any:
        def run_in_context(*inputs: Any, **others: Any) -> Any:
            with make_context():
                return run(*inputs, **others)

        return checkpoint(run_in_context, *args, **named)

    return checkpoint_in_context

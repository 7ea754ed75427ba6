"""Layers that are checkpointed run twice, and the second time all around them has changed: in what they run then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import nn

from .attention import CHECKPOINTS

Setting = Callable[[], AbstractContextManager[Any]]
"""Makes a context to run in, each time anew."""


@contextmanager
def throughout(model: nn.Module, setting: Setting) -> Iterator[None]:
    """Run in `setting` for a while, and again whenever layers that were checkpointed meanwhile are recomputed.

    A backward pass would else recompute them under what is set by then: another adapter, say, whose activations then
    give gradients that are wrong without an error. Reentrant checkpoints and others alike.
    """
    own = [(m, name, m.__dict__[name]) for m in model.modules() for name in CHECKPOINTS if name in m.__dict__]
    for module, name, checkpoint in own:
        setattr(module, name, _recomputed(checkpoint, setting))
    try:
        with setting():
            yield
    finally:
        for module, name, checkpoint in own:
            setattr(module, name, checkpoint)


def _recomputed(checkpoint: Any, setting: Setting) -> Callable[..., Any]:
    def call(run: Callable[..., Any], *args: Any, **named: Any) -> Any:
        def within(*inputs: Any, **others: Any) -> Any:
            with setting():
                return run(*inputs, **others)

        return checkpoint(within, *args, **named)

    return call

"""Models whose weights processes share, run unequally often: no process runs one without the others.

To run such a model its weights are gathered from all processes, so one that runs it alone waits for ever. Inside
`in_step` the processes agree, before each run, on a model that one of them wants to run next; those that want another,
or nothing more, run that model on a single token meanwhile. So each may generate and score as many batches as it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule

from ..utils.distributed import world_size
from .wrappers import own_forward, run_under_wrapper, unwrap


def is_gathered(model: nn.Module) -> bool:
    """Whether the weights of a model are gathered from all processes for each run of it."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


@contextmanager
def in_step(*models: nn.Module) -> Iterator[None]:
    """Let the processes run these models unequally often in this block, which all of them have to enter.

    Each leaves it when all are at its end, also by an error. Models that a process has whole are nothing to wait for,
    and neither are those of a block around this one. A run is one call of the outermost module.
    """
    new = [model for model in models if is_gathered(model) and not any(each.knows(model) for each in _sessions)]
    if not new or world_size() == 1:
        yield
        return
    session = _Session(new)
    _sessions.append(session)
    # Before FSDP's own hook, which gathers.
    hooks = [model.register_forward_pre_hook(session.turn, prepend=True) for model in new]
    try:
        yield
    finally:
        session.finish()
        for hook in hooks:
            hook.remove()
        _sessions.remove(session)


class _Session:
    """What one block of `in_step` is about."""

    def __init__(self, models: Sequence[nn.Module]):
        self.models = models
        self._idling = False

    def knows(self, model: nn.Module) -> bool:
        return any(model is each for each in self.models)

    def turn(self, model: nn.Module, *_: Any) -> None:
        """Before a model is run: run what others want to run, until it is this model's turn."""
        if self._idling:
            return
        wanted = next(number for number, each in enumerate(self.models) if each is model)
        while (chosen := self._agree(wanted)) != wanted:
            self._idle(self.models[chosen])

    def finish(self) -> None:
        """Run what others want to run, until none wants to run anything."""
        none = len(self.models)
        while (chosen := self._agree(none)) != none:
            self._idle(self.models[chosen])

    def _agree(self, wanted: int) -> int:
        """The first of the models that a process wants to run; their number where none does."""
        asked = torch.tensor(wanted, device=_device(self.models[0]))
        distributed.all_reduce(asked, distributed.ReduceOp.MIN)
        return int(asked)

    @torch.no_grad()
    def _idle(self, model: nn.Module) -> None:
        inner: Any = unwrap(model)
        token = torch.zeros(1, 1, dtype=torch.long, device=_device(model))
        self._idling = True
        try:
            run_under_wrapper(model, inner, lambda: {"_": own_forward(inner)(input_ids=token, use_cache=False)[0]})
        finally:
            self._idling = False


_sessions: list[_Session] = []


def _device(model: nn.Module) -> torch.device:
    """Where a model is run: weights that FSDP keeps on the CPU are gathered on the GPU."""
    device = next(model.parameters()).device
    return torch.device("cuda") if device.type == "cpu" and torch.cuda.is_available() else device

"""An optimizer of weights that FSDP2 spreads over processes, on disk: each process writes its part, and reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import fsdp2_canonicalize_names
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from ..utils.distributed import rank

FOLDER = "optimizer_0"
"""In a checkpoint, as accelerate calls it."""
ROOT, STATE = "optimizer", "state"
OPTIONS = StateDictOptions(cpu_offload=True)


def save_optimizer(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Write what an optimizer remembers of each weight. Every process has to call it.

    Args:
        model: what it trains.
        folder: the checkpoint's.

    Raises:
        OSError: a process could not write its part.
    """
    state = get_optimizer_state_dict(model, optimizer, options=OPTIONS)
    with _own_errors():
        checkpoint.save({ROOT: state}, storage_writer=checkpoint.FileSystemWriter(folder / FOLDER))


def load_optimizer(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Read what `save_optimizer` wrote. Every process has to call it.

    An optimizer remembers nothing of a weight of which it never had a gradient, as of PPO's policy while the critic
    learns alone; nor does it then after this, which accelerate's `load_fsdp_optimizer` takes for an error.

    Raises:
        ValueError: a part of what belongs to one weight is missing.
    """
    reader = checkpoint.FileSystemReader(folder / FOLDER)
    found = reader.read_metadata().state_dict_metadata
    state = get_optimizer_state_dict(model, optimizer, options=OPTIONS)  # of the shape that it will have
    remembered: dict[str, dict[str, Any]] = state[STATE]  # type: ignore[assignment]
    unknown = set()
    for name, columns in remembered.items():
        missing = [column for column in columns if f"{ROOT}.{STATE}.{name}.{column}" not in found]
        if len(missing) == len(columns):
            unknown.add(name)
        elif missing:
            raise ValueError(f"{folder / FOLDER} has no {', '.join(missing)} of {name}: take another checkpoint")
    planner = DefaultLoadPlanner(allow_partial_load=bool(unknown))
    with _own_errors():
        checkpoint.load({ROOT: state}, storage_reader=reader, planner=planner)
    set_optimizer_state_dict(model, optimizer, state, options=OPTIONS)
    for name, parameter in fsdp2_canonicalize_names(dict(model.named_parameters())).items():
        if name in unknown:
            optimizer.state.pop(parameter, None)


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise what failed here, or else in another process: torch's error about it is none that is caught as usual."""
    try:
        yield
    except CheckpointException as error:
        failures = {place: failure for place, (failure, _) in error.failures.items()}
        raise failures.get(rank(), next(iter(failures.values()))) from error

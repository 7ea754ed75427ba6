"""What a signal does to a training: it ends with its step, in every rank, and says where it stands."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import distributed

from ..utils.distributed import world_size
from ..utils.signals import Interrupted, interrupted, listener, name_of
from .checkpoint import newest

GO_ON = "To go on: --resume_from_checkpoint true, in Python train(resume_from_checkpoint=True)"


def asked_by_any(accelerator: Accelerator) -> bool:
    """Whether a signal has come to any rank; then it counts as having come to all, which must all call this.

    One that comes to a rank while they agree is for the next time: the others do not know of it.
    """
    here = listener()
    if world_size() == 1:
        return here.signum is not None
    signum = torch.tensor(here.signum or 0, device=accelerator.device)
    distributed.all_reduce(signum, op=distributed.ReduceOp.MAX)
    if agreed := int(signum):
        here.note(agreed)
    return agreed != 0


@contextmanager
def told(standing: Callable[[], str]) -> Iterator[None]:
    """Say where a training stands, and how to go on, in the `Interrupted` that ends it.

    An error counts as that, too, once a signal has come: other processes may have ended before this one.
    """
    try:
        yield
    except KeyboardInterrupt as ending:
        signum = ending.signum if isinstance(ending, Interrupted) else signal.SIGINT
        raise interrupted(signum, _text(signum, standing())) from None
    except Interrupted as ending:
        raise interrupted(ending.signum, _text(ending.signum, standing())) from None
    except Exception as error:
        came = listener().signum
        if came is None:
            raise
        raise interrupted(came, _text(came, f"{standing()}\nThe step did not end: {error}")) from error


def _text(signum: int, standing: str) -> str:
    return f"Interrupted by {name_of(signum)} {standing}"


def steps_done(step: int, steps: int, output_dir: str) -> str:
    """Where a training of so many steps stands, and how to go on with it."""
    come = f"after step {step} of {steps}."
    try:
        return f"{come}\nNewest checkpoint: {newest(output_dir)}\n{GO_ON}"
    except FileNotFoundError:
        return f"{come}\nNo checkpoint was written yet: run it again from the start."


def iterations_done(output_dir: str, iterations: int) -> str:
    """Where a training in iterations stands, and how to go on with it."""
    done = len(list(Path(output_dir).glob("iteration-*/policy")))
    come = f"after {done} of {iterations} iterations."
    return f"{come}\nWhat is sampled, scored and trained is in {output_dir}\n{GO_ON}"

"""The learning rate over the steps of a run, known before there is an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainingArguments, get_scheduler

Schedule = Callable[[int], float]
"""A number of steps -> what the learning rate is multiplied with."""


def schedule_of(args: TrainingArguments, steps: int, rate: float) -> Schedule | None:
    """transformers' schedule of this many steps, None of one that follows the loss and not the number of steps.

    Args:
        rate: the learning rate, of which some schedules keep a least share.
    """
    stand_in = torch.optim.SGD([torch.zeros(1)], lr=rate)
    more = cast(Any, args.lr_scheduler_kwargs)
    kind: Any = args.lr_scheduler_type
    made = get_scheduler(kind, stand_in, args.get_warmup_steps(steps), steps, scheduler_specific_kwargs=more)
    return made.lr_lambdas[0] if isinstance(made, LambdaLR) else None

"""The precision of weights that train: float32, unless the user chose less, and then how many of them cannot move.

A number in bfloat16 has 8 bits, so what is added to a weight is lost where it is less than about a 512th of it. At the
learning rates of preference optimization that is nearly every step of nearly every weight.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import cast_adapter_dtype
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from .modes import is_quantized
from .wrappers import base_transformer

logger = logging.getLogger(__name__)

HALF = (torch.bfloat16, torch.float16)
LOOKED_AT = 65536
"""Of each weight matrix at most so many numbers are looked at, evenly spread."""


def train_in_float32(model: nn.Module) -> None:
    """Cast what trains to float32, in place, where it has 16 bits.

    Of a plain model that is every weight, so that its layers agree; of one with an adapter, the adapter: the base may
    stay as it is. Weights that are quantised, or that processes share, stay.

    Args:
        model: not yet wrapped, its frozen weights frozen.
    """
    before = {p.dtype for p in model.parameters() if p.requires_grad and p.dtype in HALF}
    if not before or any(isinstance(module, FSDPModule) for module in model.modules()):
        return
    if isinstance(model, PeftModel):
        for name in model.peft_config:
            cast_adapter_dtype(model, name)
    elif not is_quantized(model):
        for parameter in model.parameters():
            if parameter.dtype in HALF and not hasattr(parameter, "ds_id"):  # DeepSpeed's, which processes share
                parameter.data = parameter.data.float()
    after = {p.dtype for p in model.parameters() if p.requires_grad and p.dtype in HALF}
    if after != before:
        logger.warning(
            "%s came with weights in %s, which are too coarse to train: they are float32 now, in place, at twice the "
            "memory. float32_weights=False in the arguments trains them as they come",
            type(base_transformer(model)).__name__,
            _names(before),
        )


def cast_weights(model: nn.Module, dtype: torch.dtype) -> dict[int, nn.Parameter]:
    """The weights of a model in a dtype, by the id of each: what `copy.deepcopy` takes for its memo.

    As where `from_pretrained` is asked for the dtype, buffers (such as the frequencies of positions) keep theirs, and
    so do weights that the family keeps in float32.
    """
    kept = {name for module in model.modules() for name in getattr(module, "_keep_in_fp32_modules_strict", None) or ()}
    if dtype == torch.float16:
        kept |= {name for module in model.modules() for name in getattr(module, "_keep_in_fp32_modules", None) or ()}
    cast: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not any(f".{each}." in f".{name}." for each in kept):
            cast[id(parameter)] = nn.Parameter(parameter.detach().to(dtype, copy=True), requires_grad=False)
    return cast


def training_dtype(policy: nn.Module) -> torch.dtype:
    """The precision in which a policy's weights train, its adapter's where it has one."""
    trained = (p.dtype for p in policy.parameters() if p.requires_grad and p.is_floating_point())
    return next(trained, next(policy.parameters()).dtype)


def warn_of_half_precision(what: str, parameters: Iterable[Tensor], rate: float, optimizer: str | None) -> None:
    """Say how many weights a step cannot move, since their next number in 16 bits is too far away.

    Args:
        what: which weights these are.
        parameters: of which those count that take gradients.
        rate: the highest learning rate.
        optimizer: one whose step is about the learning rate, None for others, of which less can be said.
    """
    coarse = [p for p in parameters if p.requires_grad and p.dtype in HALF]
    if not coarse:
        return
    count, dtypes = sum(p.numel() for p in coarse), _names({p.dtype for p in coarse})
    remedy = (
        "Train in float32 (dtype=float32 by name, float32_weights=True for a model object); bf16=True computes in "
        "bfloat16 all the same"
    )
    if optimizer is None:
        logger.warning(
            "%s weights of the %s train in %s: an update of less than a 512th of a bfloat16 weight, or a 4096th of a "
            "float16 weight, is rounded away, and how many are depends on the optimizer. %s",
            f"{count:,}",
            what,
            dtypes,
            remedy,
        )
        return
    logger.warning(
        "%.1f%% of the %s weights of the %s that train in %s cannot move: a step of %s is about the learning rate, %g, "
        "and theirs would be rounded away. %s",
        100 * share_that_cannot_move(coarse, rate),
        f"{count:,}",
        what,
        dtypes,
        optimizer,
        rate,
        remedy,
    )


def warn_of_reference(policy: nn.Module, reference: nn.Module) -> None:
    """Say so where a reference has fewer bits than the policy: log-ratios do not start at 0 then."""
    of_policy = next((p.dtype for p in base_transformer(policy).parameters() if p.is_floating_point()), None)
    of_reference = next((p.dtype for p in base_transformer(reference).parameters() if p.is_floating_point()), None)
    if of_reference in HALF and of_policy not in (None, of_reference):
        logger.warning(
            "the reference has its weights in %s and the policy in %s: log-ratios differ from 0 by that rounding "
            "before anything is learnt, in bfloat16 by about 0.1%% of a response's log-prob, so that the loss of DPO "
            "does not start exactly at ln 2",
            _names({of_reference}),  # type: ignore[arg-type]
            _names({of_policy}),  # type: ignore[arg-type]
        )


@torch.no_grad()
def share_that_cannot_move(parameters: Iterable[Tensor], rate: float) -> float:
    """The share of numbers that are the same after a step of `rate` in either direction, of a sample of them."""
    stuck = total = 0.0
    for parameter in parameters:
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        numbers = local.flatten()[:: max(1, local.numel() // LOOKED_AT)]
        if not len(numbers):
            continue
        exact = numbers.float()
        same = ((exact + rate).to(numbers.dtype) == numbers) & ((exact - rate).to(numbers.dtype) == numbers)
        stuck += float(same.float().mean()) * local.numel()
        total += local.numel()
    return stuck / total if total else 0.0


def _names(dtypes: Iterable[torch.dtype]) -> str:
    return " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))

"""Small tensor operations that objectives and models share: masked sums and means, upcasting, who wins a pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .renamed import renamed


def upcast(x: Tensor) -> Tensor:
    """Convert half precision to float32, since it is too coarse for losses and log-probs; float64 stays float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Add up the last axis where the mask is True.

    Args:
        x: [..., R]; what it holds where the mask is False does not matter, be it NaN.
        mask: [..., R] bool.

    Returns:
        [...]
    """
    return x.masked_fill(~mask, 0.0).sum(-1)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Average over the last axis where the mask is True.

    Args:
        x: [..., R]
        mask: [..., R] bool.

    Returns:
        [...]; 0 where the mask is False along the whole axis.
    """
    return masked_sum(x, mask) / mask.sum(-1).clamp(min=1)


def log1mexp(x: Tensor) -> Tensor:
    """Compute log(1 - e^x) for x < 0 without losing digits at either end.

    Machler 2012, "Accurately computing log(1 - exp(-|a|))". Same shape as `x`.
    """
    near_zero = x > -0.6931471805599453
    # Each branch sees only values that are safe for it, or the unused one would put NaN into the gradient.
    small = torch.log(
        -torch.expm1(torch.where(near_zero, x, -torch.ones_like(x)).clamp(max=-torch.finfo(x.dtype).tiny))
    )
    large = torch.log1p(-torch.exp(torch.where(near_zero, -torch.ones_like(x), x)))
    return torch.where(near_zero, small, large)


def wins(chosen: Tensor, rejected: Tensor, scale: Tensor | None = None) -> Tensor:
    """Say which pairs are ranked as they should be: 1 where chosen > rejected, one half at a tie, else 0.

    A tie is a difference within 1e-6 of `scale`: the same row packed otherwise differs by that much in float32, and a
    policy that equals its reference must count as 0.5, not as whatever rounding says.

    Args:
        chosen, rejected: of one shape.
        scale: the size of the numbers that the two are differences of, same shape; default |chosen| + |rejected|.

    Returns:
        Same shape, in the dtype of `chosen - rejected`.
    """
    scale = chosen.abs() + rejected.abs() if scale is None else scale
    delta = chosen - rejected
    tie = delta.abs() <= 1e-6 * scale
    return torch.where(tie, torch.full_like(delta, 0.5), (delta > 0).to(delta.dtype))


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"wide": "upcast"})

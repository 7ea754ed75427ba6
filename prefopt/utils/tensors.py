"""Small tensor operations shared by objectives and models: torch only, no model and no batch."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """`x` in at least float32: log-probs, losses and heads are never computed in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum over the last axis where `mask` holds. x, mask: [..., R] -> [...]"""
    return x.masked_fill(~mask, 0.0).sum(-1)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last axis where `mask` holds, 0 where it never does. x, mask: [..., R] -> [...]"""
    return masked_sum(x, mask) / mask.sum(-1).clamp(min=1)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, stable at both ends (Machler 2012, "Accurately computing log(1 - exp(-|a|))")."""
    near_zero = x > -0.6931471805599453
    # Each branch sees only values that are safe for it, or the unused one would put NaN into the gradient.
    small = torch.log(
        -torch.expm1(torch.where(near_zero, x, -torch.ones_like(x)).clamp(max=-torch.finfo(x.dtype).tiny))
    )
    large = torch.log1p(-torch.exp(torch.where(near_zero, -torch.ones_like(x), x)))
    return torch.where(near_zero, small, large)


def wins(chosen: Tensor, rejected: Tensor, scale: Tensor | None = None) -> Tensor:
    """1 where chosen > rejected, one half at a tie, else 0; same shape.

    A tie is a difference within 1e-6 of `scale` (default |chosen| + |rejected|): two ways of packing the same float32
    row differ by that much, and a policy that equals its reference must count as 0.5, not as whatever rounding says.
    """
    scale = chosen.abs() + rejected.abs() if scale is None else scale
    delta = chosen - rejected
    tie = delta.abs() <= 1e-6 * scale
    return torch.where(tie, torch.full_like(delta, 0.5), (delta > 0).to(delta.dtype))

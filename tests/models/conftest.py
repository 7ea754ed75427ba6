"""What the tests of models share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def _float64_all_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms, and the softmax of eager attention, go through float32 whatever the model's dtype: here they must not."""
    softmax, to, narrow = nn.functional.softmax, Tensor.to, Tensor.float

    def exact_softmax(x: Tensor, dim: int | None = None, dtype: torch.dtype | None = None, **rest: Any) -> Tensor:
        return softmax(x, dim=dim, dtype=None if x.dtype == torch.float64 else dtype, **rest)

    def exact_to(x: Tensor, *args: Any, **rest: Any) -> Tensor:
        # not the buffer of rotary frequencies, [D] or [B, D, 1]
        hidden_or_weight = (x.dim() > 1 and x.shape[-1] > 1) or isinstance(x, nn.Parameter)
        narrows = x.dtype == torch.float64 and hidden_or_weight and torch.float32 in (*args, *rest.values())
        return x if narrows else to(x, *args, **rest)

    monkeypatch.setattr(nn.functional, "softmax", exact_softmax)
    monkeypatch.setattr(Tensor, "to", exact_to)
    monkeypatch.setattr(Tensor, "float", lambda x: x if x.dtype == torch.float64 else narrow(x))

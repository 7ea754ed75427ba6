"""bf16=True computes in bfloat16 and keeps what is trained in float32, with either layout and with recomputation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prefopt import DPOConfig, DPOTrainer
from prefopt.models.layout_selection import LayoutSelection, _selected
from tests.helpers.models import tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet


def update(tmp_path: Path, tokenizer: Any, **args: Any) -> tuple[Tensor, Any]:
    """By how much one step of plain gradient descent moves the weights, as one vector."""
    model = tiny_llama(dtype=torch.float32)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    step = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "per_device_train_batch_size": 8}
    config = DPOConfig(**quiet(tmp_path, **step | args))
    trainer = DPOTrainer(model, args=config, train_dataset=ragged_pairs(8), processing_class=tokenizer)
    trainer.train()
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()]) - before, trainer


@pytest.mark.parametrize("layout", ["segments", "dense", "padded"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_master_weights_stay_in_float32(layout: str, checkpointing: bool, tmp_path: Path, tokenizer: Any) -> None:
    exact, _ = update(tmp_path, tokenizer, layout=layout)
    try:
        found, trainer = update(tmp_path, tokenizer, layout=layout, bf16=True, gradient_checkpointing=checkpointing)
    except RuntimeError as error:
        if "only supported when avx512" in str(error):  # of torch's own attention, with ATEN_CPU_CAPABILITY=default
            pytest.skip(f"torch has no attention in bfloat16 here: {error}")
        raise
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    # Weights kept in bfloat16 could not move by less than a 256th of their size.
    moved = found[found != 0].abs()
    assert moved.min() < 1e-4 and (found.bfloat16().float() != found).float().mean() > 0.5
    assert torch.cosine_similarity(found, exact, dim=0) > 0.99
    assert not torch.equal(found, exact)


def test_the_head_is_not_lost_under_mixed_precision(tmp_path: Path, tokenizer: Any) -> None:
    """accelerate wraps a model's forward in autocast: the logits to compare with must not come out of that."""
    _, trainer = update(tmp_path, tokenizer, bf16=True)
    for model in (trainer.model, trainer.reference.model):
        assert _selected[model] == LayoutSelection("segments", frozenset({"dense", "own"}))

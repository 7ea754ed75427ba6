"""Numbers that must not depend on how rows are batched: metrics, losses and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefopt.data.batching import TokenBudget
from tests.helpers.cases import CASES, build, numbers


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", CASES)
def test_evaluate_does_not_depend_on_the_batch_size(
    name: str, dtype: torch.dtype, tolerance: float, tmp_path: Path, tokenizer: Any
) -> None:
    results = [
        numbers(build(name, tmp_path, tokenizer, dtype, per_device_eval_batch_size=size).evaluate())
        for size in (1, 2, 4, 9)
    ]
    assert len(results[0]) >= 2 and "eval_loss" in results[0]
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=tolerance, abs=tolerance)


def test_predictions_are_nan_where_a_row_has_no_response(tmp_path: Path, tokenizer: Any) -> None:
    """Also beside rows that have more: otherwise they would say how rows were batched."""
    found = []
    for size in (1, 13):
        trainer = build("rrhf", tmp_path, tokenizer, per_device_eval_batch_size=size)
        found.append(trainer.predict(trainer.eval_dataset).predictions)
    for one, whole in zip(*found, strict=True):
        np.testing.assert_allclose(one, whole, rtol=1e-6)
        assert np.isfinite(one).sum(-1).tolist() == [2 + i % 3 for i in range(13)]


@pytest.mark.parametrize("name", CASES)
def test_training_does_not_depend_on_how_a_step_is_split(name: str, tmp_path: Path, tokenizer: Any) -> None:
    """16 rows a step as 16x1, 4x4 and 2x8, over 13 rows: the one step of each epoch is ragged in all three."""
    logs, weights = [], []
    for size, accumulation in ((16, 1), (4, 4), (2, 8)):
        trainer = build(
            name,
            tmp_path,
            tokenizer,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=3,
            optim="sgd",
            learning_rate=0.05,
        )
        trainer.train()
        logs.append([numbers(log) for log in trainer.state.log_history if "loss" in log])
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert len(logs[0]) == 3
    for log, weight in zip(logs[1:], weights[1:], strict=True):
        for step, expected in zip(log, logs[0], strict=True):
            # Trainer itself keeps the sum of losses in float32.
            assert step.pop("loss") == pytest.approx(expected["loss"], rel=1e-6)
            assert step == pytest.approx({k: v for k, v in expected.items() if k != "loss"}, rel=1e-9, abs=1e-9)
        torch.testing.assert_close(weight, weights[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_a_step_of_the_whole_epoch_is_the_same_by_rows_and_by_tokens(name: str, tmp_path: Path, tokenizer: Any) -> None:
    """Batches of 4 rows and batches of as many as fit in 64 tokens are the same step if it holds all of them."""
    found = []
    for args in ({"per_device_train_batch_size": 4}, {"max_tokens_per_batch": 64}):
        whole = {"gradient_accumulation_steps": 32, "num_train_epochs": 3, "optim": "sgd", "learning_rate": 0.05}
        trainer = build(name, tmp_path, tokenizer, **whole, **args)
        trainer.train()
        logs = [numbers(log) for log in trainer.state.log_history if "loss" in log]
        found.append((logs, torch.cat([p.detach().flatten() for p in trainer.model.parameters()])))
    assert isinstance(trainer.get_train_dataloader().batch_sampler, TokenBudget)
    (rows, by_rows), (tokens, by_tokens) = found
    assert len(rows) == len(tokens) == 3
    for step, expected in zip(tokens, rows, strict=True):
        assert step.pop("loss") == pytest.approx(expected.pop("loss"), rel=1e-6)  # a sum that Trainer keeps in float32
        assert step == pytest.approx(expected, rel=1e-9, abs=1e-9)
    torch.testing.assert_close(by_tokens, by_rows, rtol=1e-9, atol=1e-9)

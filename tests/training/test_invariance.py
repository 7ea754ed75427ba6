"""Numbers that must not depend on how rows are batched: metrics, losses and weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from prefopt import PreferenceConfig, PreferenceTrainer
from prefopt.data.batching import TokenBudget
from prefopt.grades import GRADES
from prefopt.objectives.base import Objective
from prefopt.objectives.dpo import DPO
from prefopt.objectives.reward import BradleyTerry
from prefopt.objectives.rrhf import RRHF
from prefopt.objectives.sft import SFT
from tests.conftest import quiet, ragged_pairs, tiny_llama


def multi_turn(n: int) -> Dataset:
    """Rows of which some tokens belong to later user turns."""
    rows = ragged_pairs(n, seed=3, k=1)
    masks = [[[int(t % 3 != 1 or t == 0) for t in range(len(ids))] for ids in row] for row in rows["response_ids"]]
    return rows.add_column("loss_mask", masks)


def graded(n: int) -> Dataset:
    return ragged_pairs(n, seed=5, grade=lambda rng: rng.choice(GRADES), margin=lambda rng: rng.random())


def ranked(n: int) -> Dataset:
    """Rows of two to four responses with scores, among them ties and a best that is not the first."""
    rows = ragged_pairs(n, seed=7, k=4).to_list()
    for i, row in enumerate(rows):
        row["response_ids"] = row["response_ids"][: 2 + i % 3]
        row["score"] = [float((5 * i + 3 * k) % 4) for k in range(2 + i % 3)]
    return Dataset.from_list(rows)


@dataclass(frozen=True)
class Case:
    """What is trained: an objective on rows, in full or through an adapter that is fresh or that the model carries."""

    objective: Objective
    rows: Dataset
    adapter: Literal["fresh", "carried"] | None = None
    args: dict[str, Any] = field(default_factory=dict)


CASES = {
    "dpo": Case(DPO(), ragged_pairs(13)),
    "dpo + sft": Case(DPO(loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.7]), ragged_pairs(13)),
    "reward + lm": Case(BradleyTerry(lm_coefficient=0.5, center_rewards_coefficient=0.01), graded(13)),
    "multi-turn sft": Case(SFT(), multi_turn(13)),
    "rrhf": Case(RRHF(), ranked(13)),
    "rrhf, code": Case(RRHF(mode="code"), ranked(13)),
    "aot (coupled)": Case(DPO(loss_type=["aot"]), ragged_pairs(13)),
    "kto (coupled)": Case(DPO(loss_type=["kto"]), ragged_pairs(13)),
    "bco (coupled, with state)": Case(DPO(loss_type=["bco_pair"]), ragged_pairs(13)),
    "dpo, adapter switched off": Case(DPO(), ragged_pairs(13), "fresh"),
    "bco, adapter copied": Case(DPO(loss_type=["bco_pair"]), ragged_pairs(13), "carried"),
    "dpo, precomputed": Case(DPO(), ragged_pairs(13), args={"precompute_ref_log_probs": True}),
}
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "lm_head"], task_type="CAUSAL_LM")


def build(
    name: str, tmp_path: Path, tokenizer: Any, dtype: torch.dtype = torch.float64, **args: Any
) -> PreferenceTrainer:
    case = CASES[name]
    model: Any = tiny_llama(dtype=dtype)
    other = "reference" in case.objective.needs and case.adapter is None
    if case.adapter == "carried":
        model = get_peft_model(model, LORA)
        torch.nn.init.constant_(model.base_model.model.lm_head.lora_B["default"].weight, 0.01)
    return PreferenceTrainer(
        model,
        case.objective,
        PreferenceConfig(**quiet(tmp_path, **case.args | args)),
        case.rows,
        case.rows,
        tokenizer,
        ref_model=tiny_llama(seed=9, dtype=dtype) if other else None,
        peft_config=LORA if case.adapter == "fresh" else None,
    )


def numbers(metrics: dict[str, float]) -> dict[str, float]:
    timing = ("runtime", "per_second", "epoch")
    return {name: value for name, value in metrics.items() if not name.endswith(timing)}


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

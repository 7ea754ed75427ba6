"""A run says what memory its peak will need, what would need less, and finds batches that there is room for."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from prefopt import DPOConfig, DPOTrainer, PreferenceConfig, RewardConfig, RewardTrainer
from prefopt.data.batching import token_counts
from prefopt.training import memory
from prefopt.training.checkpoint import described, newest
from prefopt.training.memory import free_bytes, stored
from tests.helpers.models import tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

ROWS = ragged_pairs(24)
COSTS = token_counts(ROWS)
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
WEIGHTS = sum(p.numel() for p in tiny_llama().parameters())


def trainer(tmp_path: Path, tokenizer: Any, **changes: Any) -> DPOTrainer:
    given = {name: changes.pop(name) for name in ("peft_config",) if name in changes}
    args = {"max_steps": 2, "per_device_train_batch_size": 6, "predict_memory": True} | changes
    config = DPOConfig(**quiet(tmp_path, **args))
    return DPOTrainer(tiny_llama(), args=config, train_dataset=ROWS, processing_class=tokenizer, **given)


def with_free(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(size))


def test_the_parts_are_those_of_the_run(tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = trainer(tmp_path, tokenizer)
    with caplog.at_level(logging.INFO, "prefopt"):
        run.train()
    found = run.memory.predicted
    assert found.weights == stored([run.model]) and found.reference == found.weights
    assert found.weights == pytest.approx(4 * WEIGHTS, rel=1e-3) and found.optimizer == 8 * WEIGHTS
    assert found.activations > 0 and found.gradients <= 4 * WEIGHTS
    assert found.total == sum(found.parts.values()) and found.fits
    assert sum(found.shape.prompts) + found.shape.predicted == int(COSTS.sort(descending=True).values[:6].sum())
    said = re.search(
        r"needs about [\d.e-]+ GiB of memory at its peak: weights .*, reference .*GiB are there", caplog.text
    )
    assert said and "of 6 rows and" in said[0]


CHANGES: dict[str, dict[str, Any]] = {
    "adapter": {"peft_config": LORA},
    "reference in bfloat16": {"reference_dtype": "bfloat16"},
    "precomputed": {"precompute_ref_log_probs": True},
    "8-bit moments": {"optim": "adamw_bnb_8bit"},
    "fewer rows": {"per_device_train_batch_size": 1},
    "fewer tokens": {"max_tokens_per_batch": 40},
    "no memory of steps": {"optim": "sgd"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_needs_less_is_predicted_to_need_less(change: str, tmp_path: Path, tokenizer: Any) -> None:
    plain, other = trainer(tmp_path / "a", tokenizer), trainer(tmp_path / "b", tokenizer, **CHANGES[change])
    for run in (plain, other):
        run.train()
    assert other.memory.predicted.total < plain.memory.predicted.total
    if change == "reference in bfloat16":
        assert other.memory.predicted.reference == pytest.approx(plain.memory.predicted.reference / 2, rel=0.01)
    if change in ("adapter", "precomputed"):
        assert other.memory.predicted.reference == 0


def test_gradients_of_a_step_in_several_batches_lie_there_meanwhile(tmp_path: Path, tokenizer: Any) -> None:
    run = trainer(tmp_path, tokenizer, gradient_accumulation_steps=2)
    run.train()
    assert run.memory.predicted.gradients == 4 * WEIGHTS


def test_what_may_not_fit_is_a_warning_that_says_what_needs_less(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_free(monkeypatch, 1000)
    with caplog.at_level(logging.WARNING, "prefopt"):
        trainer(tmp_path, tokenizer).train()
    (said,) = [r.getMessage() for r in caplog.records if "may not fit" in r.getMessage()]
    for argument in ("gradient_checkpointing=True", "reference_dtype='bfloat16'", "precompute_ref_log_probs=True"):
        assert argument in said
    assert "per_device_train_batch_size" in said and "--use_peft" in said


def test_a_reward_model_is_predicted_too(tmp_path: Path, tokenizer: Any) -> None:
    args = RewardConfig(**quiet(tmp_path, max_steps=1, predict_memory=True))
    run = RewardTrainer(tiny_llama(), args=args, train_dataset=ROWS, processing_class=tokenizer)
    run.train()
    assert run.memory.predicted.reference == 0 and run.memory.predicted.activations > 0


def test_a_prediction_changes_no_bit_of_a_run(tmp_path: Path, tokenizer: Any) -> None:
    runs = [trainer(tmp_path / str(told), tokenizer, predict_memory=told, learning_rate=1e-2) for told in (True, False)]
    for run in runs:
        run.train()
    assert all(torch.equal(a, b) for a, b in zip(*(run.model.parameters() for run in runs), strict=True))
    assert runs[1].memory.predicted is None


def test_an_error_in_it_stops_no_run(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("an operation of a family of its own")

    monkeypatch.setattr(memory, "activations", fail)
    run = trainer(tmp_path, tokenizer, max_tokens_per_batch="auto")
    with caplog.at_level(logging.WARNING, "prefopt"):
        run.train()
    assert run.state.global_step == 2 and run.args.max_tokens_per_batch == round(6 * float(COSTS.double().mean()))
    assert "memory that this run needs could not be predicted: RuntimeError: an operation of a family" in caplog.text


# ---- max_tokens_per_batch="auto" -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 6])
def test_with_room_auto_is_what_the_rows_of_a_batch_have(
    size: int, tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the longest row alone has more."""
    assert float(COSTS.double().mean()) < COSTS.max() < 6 * float(COSTS.double().mean())
    run = trainer(tmp_path, tokenizer, max_tokens_per_batch="auto", per_device_train_batch_size=size)
    with caplog.at_level(logging.INFO, "prefopt"):
        run.train()
    expected = round(size * float(COSTS.double().mean()))
    assert run.args.max_tokens_per_batch == expected
    rows = expected / float(COSTS.double().mean())
    assert f"max_tokens_per_batch=auto: {expected} tokens, about {rows:.3g} rows a batch" in caplog.text
    for text in (run.launch, caplog.text):
        assert f"rows a step in batches of at most {expected} tokens" in text


def test_without_room_auto_is_less_and_says_how_a_step_keeps_its_rows(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = trainer(tmp_path / "a", tokenizer, max_tokens_per_batch="auto", per_device_train_batch_size=24)
    plain.train()
    whole = plain.memory.predicted
    needed = whole.total - whole.weights - whole.reference - 0.5 * whole.activations
    with_free(monkeypatch, needed / 0.9)
    run = trainer(tmp_path / "b", tokenizer, max_tokens_per_batch="auto", per_device_train_batch_size=24)
    with caplog.at_level(logging.INFO, "prefopt"):
        run.train()
    budget, asked = run.args.max_tokens_per_batch, plain.args.max_tokens_per_batch
    assert int(COSTS.max()) <= budget < asked
    assert run.memory.predicted.total <= run.memory.predicted.available
    assert "for want of memory; gradient_accumulation_steps times" in caplog.text


def test_a_run_goes_on_with_the_budget_that_it_had(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 1, "max_tokens_per_batch": "auto"}
    run = trainer(tmp_path, tokenizer, **saving)
    run.train()
    budget = run.args.max_tokens_per_batch
    assert described(newest(tmp_path / "run"))["max_tokens_per_batch"] == budget
    with_free(monkeypatch, 1000)
    again = trainer(tmp_path, tokenizer, **saving, per_device_eval_batch_size=3)
    again.train(resume_from_checkpoint=True)
    assert again.args.max_tokens_per_batch == budget and again.state.global_step == 2


@pytest.mark.parametrize(
    ("given", "is_now"), [("auto", "auto"), ("AUTO", "auto"), ("512", 512), (512, 512), ("none", None)]
)
def test_a_budget_as_a_command_line_has_it(given: Any, is_now: Any, tmp_path: Path) -> None:
    assert PreferenceConfig(**quiet(tmp_path, max_tokens_per_batch=given)).max_tokens_per_batch == is_now


@pytest.mark.parametrize("given", [0, -5, "many", "1.5"])
def test_a_budget_that_is_none(given: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give a number, or `auto`"):
        PreferenceConfig(**quiet(tmp_path, max_tokens_per_batch=given))


def test_memory_that_is_there() -> None:
    free = free_bytes(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    assert free_bytes(torch.device("meta")) is None

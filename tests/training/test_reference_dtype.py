"""A reference with weights in fewer bits: what loading it in that dtype gives, said, refused where it cannot be."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from prefopt import DPOConfig, DPOTrainer
from prefopt.data.collate import collate
from prefopt.models.forward import forward
from prefopt.models.peft_adapters import copy_model
from prefopt.training.checkpoint import newest
from tests.helpers.models import tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

ROWS = ragged_pairs(12)
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def trainer(tmp_path: Path, tokenizer: Any, model: Any = None, **changes: Any) -> DPOTrainer:
    given = {name: changes.pop(name) for name in ("peft_config", "ref_model") if name in changes}
    training = {"max_steps": 3, "learning_rate": 1e-2, "per_device_train_batch_size": 6}
    args = DPOConfig(**quiet(tmp_path, **training | changes))
    return DPOTrainer(model or tiny_llama(), args=args, train_dataset=ROWS, processing_class=tokenizer, **given)


def logps(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return forward(model, collate(list(ROWS)), frozenset({"logps"})).required("logps")


def dtypes(model: nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in model.parameters()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_copy_is_what_the_saved_policy_is_when_loaded_in_that_dtype(
    dtype: str, tied: bool, tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_llama(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=DTYPES[dtype]).eval()
    with caplog.at_level(logging.WARNING, "prefopt"):
        run = trainer(tmp_path, tokenizer, model, reference_dtype=dtype)
    copied = run.reference.model
    assert dtypes(copied) == {DTYPES[dtype]} and dtypes(run.model) == {torch.float32}
    assert len(list(copied.parameters())) == len(list(model.parameters()))
    assert torch.equal(logps(copied), logps(loaded)) and logps(copied).dtype == torch.float32
    assert f"the reference has its weights in {dtype} and the policy in float32" in caplog.text


def test_the_loss_starts_where_its_rounding_says_and_learns(tmp_path: Path, tokenizer: Any) -> None:
    run = trainer(tmp_path, tokenizer, reference_dtype="bfloat16", max_steps=6)
    chosen, rejected = (logps(run.model) - logps(run.reference.model)).sum(-1).unbind(1)
    expected = -nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()
    assert run.evaluate(ROWS)["eval_loss"] == pytest.approx(float(expected), rel=1e-6)
    assert 1e-6 < abs(float(expected) - math.log(2)) < 0.05
    run.train()
    assert run.evaluate(ROWS)["eval_loss"] < math.log(2) - 1e-3


def test_without_it_the_reference_is_the_policy_to_the_bit(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run = trainer(tmp_path, tokenizer)
    assert torch.equal(logps(run.model), logps(run.reference.model))
    assert "the reference has its weights in" not in caplog.text


def test_a_reference_by_name_is_loaded_in_it(tmp_path: Path, tokenizer: Any) -> None:
    tiny_llama(seed=3).save_pretrained(tmp_path / "ref")
    run = trainer(tmp_path, tokenizer, ref_model=str(tmp_path / "ref"), reference_dtype="bfloat16")
    assert dtypes(run.reference.model) == {torch.bfloat16}
    run = trainer(tmp_path, tokenizer, ref_model=str(tmp_path / "ref"), precompute_ref_log_probs=True)
    assert run.reference is None and "ref_logps" in run.train_dataset.column_names


def test_an_adapter_with_biases_is_copied_in_it(tmp_path: Path, tokenizer: Any) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", bias="all")
    model = tiny_llama(attention_bias=True)
    run = trainer(tmp_path, tokenizer, model, peft_config=lora, reference_dtype="bfloat16")
    assert dtypes(run.reference.model) == {torch.bfloat16} and dtypes(run.model) == {torch.float32}


def test_weights_that_a_family_keeps_in_float32_stay_so() -> None:
    model = tiny_llama()
    model._keep_in_fp32_modules_strict = {"norm"}
    copied = copy_model(model, torch.bfloat16)
    kept = {name for name, parameter in copied.named_parameters() if parameter.dtype == torch.float32}
    assert kept == {"model.norm.weight"}
    assert all(buffer.dtype == torch.float32 for buffer in copied.buffers())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "adapter": ({"peft_config": LORA}, "the reference is the model under the adapter"),
    "precomputed": ({"precompute_ref_log_probs": True}, "runs the policy itself before it trains"),
    "no reference": ({"loss_type": ["simpo"]}, "reference_dtype='bfloat16', but .* uses no reference: leave it out"),
    "moving": ({"sync_ref_model": True}, "sync_ref_model moves the reference by shares .* bfloat16 would round"),
    "unknown": ({"reference_dtype": "int4"}, "reference_dtype='int4': choose one of bfloat16, float16, float32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_where_it_would_have_no_effect_it_is_refused(case: str, tmp_path: Path, tokenizer: Any) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, tokenizer, **{"reference_dtype": "bfloat16"} | changes)


def test_a_model_that_is_there_has_its_dtype(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(
        ValueError, match="ref_model is a model in float32: give its name, or load it by from_pretrained"
    ):
        trainer(tmp_path, tokenizer, ref_model=tiny_llama(seed=3), reference_dtype="bfloat16")
    same = trainer(tmp_path, tokenizer, ref_model=tiny_llama(seed=3), reference_dtype="float32")
    assert dtypes(same.reference.model) == {torch.float32}


def test_another_dtype_is_another_run_and_the_same_goes_on_to_the_bit(tmp_path: Path, tokenizer: Any) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "reference_dtype": "bfloat16"}
    whole = trainer(tmp_path / "a", tokenizer, **saving)
    whole.train()
    newest(tmp_path / "a/run").rename(tmp_path / "last")
    resumed = trainer(tmp_path / "a", tokenizer, **saving)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    for ours, expected in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, expected)
    other = trainer(tmp_path / "b", tokenizer, **saving | {"reference_dtype": None})
    with pytest.raises(ValueError, match="belongs to another run: .*reference_dtype: 'bfloat16' -> None"):
        other.train(resume_from_checkpoint=str(tmp_path / "last"))

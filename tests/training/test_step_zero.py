"""Before the first step a policy is its reference: DPO's loss is ln 2 and its accuracy one half, in every mode."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from prefopt import DPOConfig, DPOTrainer, PreferenceTrainer
from prefopt.data.batching import token_counts
from prefopt.models import reference
from prefopt.models.reference import AdapterCopy, AdapterOff, FrozenModel
from prefopt.training.reference_logps import _own_batches as own_batches
from tests.helpers.models import tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

ROWS = ragged_pairs(12)
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "lm_head"], task_type="CAUSAL_LM")


def config(tmp_path: Path, **changes: Any) -> DPOConfig:
    training = {"max_steps": 3, "learning_rate": 1e-2, "per_device_train_batch_size": 6}
    return DPOConfig(**quiet(tmp_path, **training | changes))


def first_log(trainer: PreferenceTrainer) -> dict[str, float]:
    trainer.train()
    return trainer.state.log_history[0]


def assert_neutral(trainer: PreferenceTrainer) -> None:
    """Evaluation before training and the first training step both start from the reference, which then moves away."""
    before = trainer.evaluate(ROWS)
    assert before["eval_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert before["eval_rewards/accuracies"] == 0.5
    first = first_log(trainer)
    assert first["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert first["rewards/accuracies"] == 0.5
    assert trainer.evaluate(ROWS)["eval_loss"] < math.log(2) - 1e-3


def trained_adapter(seed: int = 0) -> PeftModel:
    """A model whose adapter is not the identity."""
    model = get_peft_model(tiny_llama(seed=seed), LORA)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_full(tmp_path: Path, tokenizer: Any) -> None:
    trainer = DPOTrainer(tiny_llama(), args=config(tmp_path), train_dataset=ROWS, processing_class=tokenizer)
    assert isinstance(trainer.reference, FrozenModel)
    assert_neutral(trainer)


def test_full_with_dropout_in_the_model(tmp_path: Path, tokenizer: Any) -> None:
    model = tiny_llama(attention_dropout=0.3)
    assert_neutral(DPOTrainer(model, args=config(tmp_path), train_dataset=ROWS, processing_class=tokenizer))


def test_given_by_name(tmp_path: Path, tokenizer: Any) -> None:
    tiny_llama().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    trainer = DPOTrainer(str(tmp_path / "model"), args=config(tmp_path), train_dataset=ROWS)
    assert trainer.model.dtype == torch.float32
    assert_neutral(trainer)


def test_fresh_lora_needs_no_second_model(tmp_path: Path, tokenizer: Any) -> None:
    trainer = DPOTrainer(
        tiny_llama(), args=config(tmp_path), train_dataset=ROWS, processing_class=tokenizer, peft_config=LORA
    )
    assert isinstance(trainer.reference, AdapterOff)
    assert_neutral(trainer)


@pytest.mark.parametrize("how", ["pissa", "olora"])
def test_lora_that_rewrites_the_base(how: str, tmp_path: Path, tokenizer: Any) -> None:
    """PiSSA's adapter off is not the model that was handed in, so its first state is copied instead."""
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=how)
    trainer = DPOTrainer(
        tiny_llama(), args=config(tmp_path), train_dataset=ROWS, processing_class=tokenizer, peft_config=lora
    )
    assert isinstance(trainer.reference, AdapterCopy)
    assert_neutral(trainer)


def test_embeddings_and_head_trained_in_full(tmp_path: Path, tokenizer: Any) -> None:
    lora = LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], task_type="CAUSAL_LM"
    )
    trainer = DPOTrainer(
        tiny_llama(), args=config(tmp_path), train_dataset=ROWS, processing_class=tokenizer, peft_config=lora
    )
    assert_neutral(trainer)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_lora(bits: int, tmp_path: Path, tokenizer: Any) -> None:
    # 4-bit blocks hold 64 weights, so the rows must be that long.
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    quantised = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    trainer = DPOTrainer(
        str(tmp_path / "model"),
        args=config(tmp_path),
        train_dataset=ROWS,
        quantization_config=quantised,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    assert trainer.model.get_base_model().is_quantized
    assert_neutral(trainer)


def test_gradient_checkpointing_and_lora(tmp_path: Path, tokenizer: Any) -> None:
    args = config(tmp_path, gradient_checkpointing=True)
    assert_neutral(
        DPOTrainer(tiny_llama(), args=args, train_dataset=ROWS, processing_class=tokenizer, peft_config=LORA)
    )


def test_bfloat16_autocast(tmp_path: Path, tokenizer: Any) -> None:
    args = config(tmp_path, bf16=True)
    assert_neutral(DPOTrainer(tiny_llama(), args=args, train_dataset=ROWS, processing_class=tokenizer))


def test_precomputed_is_cached_and_releases_the_reference(tmp_path: Path, tokenizer: Any) -> None:
    args = config(tmp_path, precompute_ref_log_probs=True)

    def build() -> DPOTrainer:
        return DPOTrainer(tiny_llama(), None, args, train_dataset=ROWS, eval_dataset=ROWS, processing_class=tokenizer)

    trainer = build()
    assert trainer.reference is None
    assert trainer.evaluate()["eval_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert first_log(trainer)["loss"] == pytest.approx(math.log(2), rel=1e-5)
    with pytest.raises(ValueError, match="ref_model"):
        trainer.evaluate(ragged_pairs(3, seed=8))
    with mock.patch(
        "prefopt.training.reference_logps.ReferencePass._compute", side_effect=AssertionError("computed again")
    ):
        assert build().evaluate()["eval_rewards/accuracies"] == 0.5


@pytest.mark.parametrize("batches", [{"precompute_ref_batch_size": 5}, {"max_tokens_per_batch": 60}])
def test_precomputed_equals_live(batches: dict[str, int], tmp_path: Path, tokenizer: Any) -> None:
    losses = []
    for precompute in (False, True):
        args = config(tmp_path, precompute_ref_log_probs=precompute, **batches)
        other = tiny_llama(seed=4)
        trainer = DPOTrainer(
            tiny_llama(), other, args, train_dataset=ROWS, eval_dataset=ROWS, processing_class=tokenizer
        )
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and abs(losses[0] - math.log(2)) > 0.01


def test_batches_of_the_reference_pass(tmp_path: Path) -> None:
    """Longest first; a fixed number of rows, if that is given, and else as many as fit."""
    tokens = token_counts(ROWS)
    by_tokens = own_batches(config(tmp_path, max_tokens_per_batch=60), ROWS)
    sums = [int(tokens[batch].sum()) for batch in by_tokens]
    assert max(sums) <= 60 and len({len(batch) for batch in by_tokens}) > 1
    assert sum(by_tokens, []) == tokens.argsort(stable=True, descending=True).tolist()
    fixed = [
        own_batches(config(tmp_path, precompute_ref_batch_size=5, **args), ROWS)
        for args in ({}, {"max_tokens_per_batch": 60})
    ]
    assert fixed[0] == fixed[1] and [len(batch) for batch in fixed[0]] == [5, 5, 2]


@pytest.mark.parametrize("peft", [None, LORA])
def test_second_round_in_the_same_process(peft: Any, tmp_path: Path, tokenizer: Any) -> None:
    """The reference of the next round is the policy handed in, not the checkpoint that it once came from."""
    first = DPOTrainer(
        tiny_llama(), args=config(tmp_path), train_dataset=ROWS, processing_class=tokenizer, peft_config=peft
    )
    first.train()
    for _ in range(2):
        first = DPOTrainer(first.model, args=config(tmp_path), train_dataset=ROWS, processing_class=tokenizer)
        assert_neutral(first)


def test_continued_adapter(tmp_path: Path, tokenizer: Any) -> None:
    model = trained_adapter()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    trainer = DPOTrainer(model, args=config(tmp_path), train_dataset=ROWS, processing_class=tokenizer)
    assert isinstance(trainer.reference, AdapterCopy)
    assert {name for name, p in trainer.model.named_parameters() if p.requires_grad} == trainable
    assert_neutral(trainer)
    assert {name for name, p in trainer.model.named_parameters() if p.requires_grad} == trainable


def test_continued_adapter_from_its_folder(tmp_path: Path, tokenizer: Any) -> None:
    base = tiny_llama()
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), LORA)
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    trainer = DPOTrainer(str(tmp_path / "adapter"), args=config(tmp_path), train_dataset=ROWS)
    assert isinstance(trainer.reference, AdapterCopy)
    assert_neutral(trainer)


def test_merged_adapter(tmp_path: Path, tokenizer: Any) -> None:
    merged = trained_adapter().merge_and_unload()
    trainer = DPOTrainer(merged, args=config(tmp_path), train_dataset=ROWS, processing_class=tokenizer)
    assert isinstance(trainer.reference, FrozenModel)
    assert_neutral(trainer)


def test_adapter_and_peft_config_is_an_error(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="merge_adapter"):
        DPOTrainer(
            trained_adapter(), args=config(tmp_path), train_dataset=ROWS, processing_class=tokenizer, peft_config=LORA
        )


def test_reference_that_is_the_policy_is_an_error(tmp_path: Path, tokenizer: Any) -> None:
    model = tiny_llama()
    with pytest.raises(ValueError, match="policy itself"):
        DPOTrainer(model, model, config(tmp_path), train_dataset=ROWS, processing_class=tokenizer)


@pytest.mark.parametrize("loss", ["simpo", "orpo", "cpo", "sft"])
def test_losses_without_reference_never_load_or_call_one(loss: str, tmp_path: Path, tokenizer: Any) -> None:
    with (
        mock.patch.object(reference, "reference_for", side_effect=AssertionError("a reference was made")),
        mock.patch("prefopt.training.build.reference_for", side_effect=AssertionError("a reference was made")),
    ):
        trainer = DPOTrainer(
            tiny_llama(), args=config(tmp_path, loss_type=[loss]), train_dataset=ROWS, processing_class=tokenizer
        )
        assert trainer.reference is None
        trainer.train()
    assert "ref_logps" not in trainer.step.annotate(trainer.model, next(iter(trainer.get_eval_dataloader(ROWS))))


def test_tr_dpo_moves_the_reference(tmp_path: Path, tokenizer: Any) -> None:
    args = config(tmp_path, sync_ref_model=True, ref_model_sync_steps=3, ref_model_mixup_alpha=0.6)
    trainer = DPOTrainer(tiny_llama(), args=args, train_dataset=ROWS, processing_class=tokenizer)
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    for name, parameter in trainer.reference.model.named_parameters():
        expected = 0.6 * dict(trainer.model.named_parameters())[name] + 0.4 * start[name]
        torch.testing.assert_close(parameter, expected)


def test_tr_dpo_with_an_adapter_is_an_error(tmp_path: Path, tokenizer: Any) -> None:
    args = config(tmp_path, sync_ref_model=True)
    with pytest.raises(ValueError, match="ref_model"):
        DPOTrainer(tiny_llama(), args=args, train_dataset=ROWS, processing_class=tokenizer, peft_config=LORA)

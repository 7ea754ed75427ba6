"""A merged model says what the adapted one said; tied heads, quantised bases, and a merge that cannot be right."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from prefopt.compare.run import task_functions
from prefopt.models import load_policy, load_scorer, merge, merge_adapter
from prefopt.models.load import add_adapter
from tests.helpers.models import tiny_llama

IDS = torch.arange(2, 998).view(12, 83)
"""Every token, and not in the rows in which `merge_adapter` compares."""

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "all-linear": {"target_modules": "all-linear"},
    "dora": {"use_dora": True},
    "dora on the head": {"target_modules": ["q_proj", "lm_head"], "use_dora": True},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "both": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "both alike": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "embeddings in full": {"modules_to_save": ["embed_tokens"]},
    "head in full": {"modules_to_save": ["lm_head"]},
    "both in full": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "both in full alike": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "tokens": {"trainable_token_indices": [5, 6, 7]},
    "tokens of the head": {"trainable_token_indices": {"lm_head": [9, 10]}},
    "tokens apart": {"trainable_token_indices": {"embed_tokens": [5, 6], "lm_head": [9, 10]}},
    "biases": {"bias": "all"},
    "biases of the layers": {"bias": "lora_only"},
    "bias of the adapter": {"lora_bias": True},
}
STAY_TIED = {
    "lora", "all-linear", "dora", "both alike", "both in full alike", "tokens",
    "biases", "biases of the layers", "bias of the adapter",
}  # fmt: skip
SIZES = {"hidden_size": 64, "intermediate_size": 128}  # 4-bit blocks hold 64 weights


def lora(kind: str) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | copy.deepcopy(KINDS[kind]))


def disturb(model: nn.Module) -> None:
    """What training would do: every weight that trains moves."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def adapted(kind: str, *, tied: bool) -> PeftModel:
    base = tiny_llama(tie_word_embeddings=tied, attention_bias="bias" in kind)
    model = get_peft_model(base, lora(kind))
    disturb(model)
    return model


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits.float()


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """To a share of the largest logit."""
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_says_what_the_adapted_one_said(kind: str, tied: bool, tmp_path: Path) -> None:
    """And is loaded again by plain transformers; the adapted model stays as it was."""
    model = adapted(kind, tied=tied)
    expected, names = logits(model), set(dict(model.named_parameters()))
    merged = merge_adapter(model)
    assert_close(logits(merged), expected)
    assert torch.equal(logits(model), expected) and set(dict(model.named_parameters())) == names
    stays = tied and kind in STAY_TIED
    assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == stays == merged.config.tie_word_embeddings
    merged.save_pretrained(tmp_path)
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(logits(again), logits(merged)) and again.config.tie_word_embeddings == stays


def test_pefts_own_merge_of_a_tied_head_is_another_model() -> None:
    """Why there is a merge here: where PEFT gets it right, this module may go."""
    model = adapted("head", tied=True)
    expected = logits(model)
    with pytest.raises(AssertionError):
        assert_close(logits(copy.deepcopy(model).merge_and_unload()), expected, tolerance=0.01)


def test_each_side_of_a_tied_head_gets_its_own_change() -> None:
    """By hand: W + alpha / r B A on the head, and W in the embeddings."""
    model = adapted("head", tied=True)
    layer: Any = model.get_submodule("base_model.model.lm_head")
    weight = layer.base_layer.weight.detach().clone()
    change = 8 / 4 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    merged = merge_adapter(model)
    torch.testing.assert_close(merged.lm_head.weight, (weight + change).detach())
    assert torch.equal(merged.model.embed_tokens.weight, weight)


def test_a_reward_model_gets_the_backbone_that_was_adapted() -> None:
    """The head's change is not in the embeddings of the reward model, which it would be after PEFT's merge."""
    model = adapted("head", tied=True)
    with torch.no_grad():
        expected = model.eval().get_base_model().model(IDS)[0]
        scorer = load_scorer(model)
        found = scorer.eval().model(IDS)[0]
    assert_close(found, expected)
    assert torch.equal(scorer.model.embed_tokens.weight, model.get_input_embeddings().weight)


def test_the_start_of_a_comparison_is_the_policy_that_was_trained() -> None:
    trainer = type("Trainer", (), {"model": adapted("head", tied=True)})()
    expected = logits(trainer.model)
    task_functions._merge(trainer)
    assert not isinstance(trainer.model, PeftModel)
    assert_close(logits(trainer.model), expected)


def test_a_merge_that_changes_the_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it would be without untying the head: the adapter stays on the model."""
    model = adapted("head", tied=True)
    expected = logits(model)
    monkeypatch.setattr(merge, "_untie", lambda inner: False)
    with pytest.raises(ValueError, match=r"logits, of standard deviation 1\.\d+, change by .*Keep the adapter"):
        merge_adapter(model)
    assert torch.equal(logits(model), expected)


def test_what_cannot_be_merged_is_an_error() -> None:
    with pytest.raises(ValueError, match="LlamaForCausalLM carries no adapter"):
        merge_adapter(tiny_llama())
    prompts = get_peft_model(tiny_llama(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ValueError, match="PROMPT_TUNING changes the prompt, not the layers"):
        merge_adapter(prompts)


def test_the_mode_is_kept_and_the_difference_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="prefopt.models.merge"):
        assert merge_adapter(adapted("lora", tied=False).train()).training
    assert "merged into its base: logits of up to" in caplog.text
    assert not merge_adapter(adapted("lora", tied=False).eval()).training


# ---- quantised -----------------------------------------------------------------------------------------------------


def quantised(bits: int, kind: str, folder: Path, *, tied: bool = False) -> PeftModel:
    tiny_llama(**SIZES, tie_word_embeddings=tied, attention_bias="bias" in kind).save_pretrained(folder)
    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    model = add_adapter(load_policy(str(folder), quantization_config=config), lora(kind), gradient_checkpointing=False)
    disturb(model)
    return model


@pytest.mark.parametrize("kind", ["lora", "all-linear", "head", "both alike", "both in full", "tokens", "biases"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_becomes_bfloat16(
    bits: int, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What differs is rounding to 8 bits of mantissa, and with 8-bit layers that of their inputs: it is printed."""
    model = quantised(bits, kind, tmp_path / "base", tied=True)
    expected = logits(model)
    merged = merge_adapter(model)
    difference = (logits(merged) - expected).square().mean().sqrt() / expected.std()
    assert difference < 0.05
    assert "dequantised to torch.bfloat16: logits of up to" in caplog.text
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    assert torch.equal(logits(model), expected)  # the quantised model is as it was
    merged.save_pretrained(tmp_path / "merged")
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert again.dtype == torch.bfloat16 and torch.equal(logits(again), logits(merged))
    assert not hasattr(again.config, "quantization_config")


def test_a_merged_weight_is_the_dequantised_one_and_the_change(tmp_path: Path) -> None:
    """By hand, with bitsandbytes alone, in float32."""
    model = quantised(4, "lora", tmp_path)
    layer: Any = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    packed = layer.base_layer.weight
    weight = bnb.functional.dequantize_4bit(packed.data, packed.quant_state).float()
    change = 8 / 4 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    found = merge_adapter(model).model.layers[0].self_attn.q_proj.weight.float()
    torch.testing.assert_close(found, (weight + change).detach(), rtol=2**-7, atol=2**-9)


def test_nothing_quantised_is_made_a_reward_model_in_silence(tmp_path: Path) -> None:
    model = quantised(4, "lora", tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="policy's adapter.*save merge_adapter"):
        load_scorer(str(tmp_path / "adapter"), quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    assert load_scorer(model).dtype == torch.bfloat16


def test_dora_on_eight_bit_layers_of_the_cpu_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="DoRA on 8-bit layers cannot run on the CPU"):
        quantised(8, "dora", tmp_path)

"""Adapters of every kind that PEFT has begin as the model under them and train as themselves, or are told of."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model

from prefopt import DPOConfig, DPOTrainer
from prefopt.models import load_policy, merge_adapter
from prefopt.models.new_adapter import add_adapter, check_trains, warn_of_start
from tests.helpers.models import tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

LAYERS: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
KINDS: dict[str, Any] = {
    "ia3": peft.IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
    ),
    "vera": peft.VeraConfig(r=4, **LAYERS | {"target_modules": ["q_proj"]}),
    "oft": peft.OFTConfig(oft_block_size=4, **LAYERS),
    "loha": peft.LoHaConfig(r=4, **LAYERS),
    "lokr": peft.LoKrConfig(r=4, **LAYERS),
    "layer norms": peft.LNTuningConfig(task_type="CAUSAL_LM", target_modules=["input_layernorm"]),
    "patterns": LoraConfig(
        r=4,
        rank_pattern={"v_proj": 2},
        alpha_pattern={"v_proj": 3},
        use_rslora=True,
        modules_to_save=["lm_head"],
        **LAYERS,
    ),
    "one layer": LoraConfig(r=4, layers_to_transform=[1], layers_pattern="layers", **LAYERS),
    "by expression": LoraConfig(r=4, target_modules=r".*\.(q|v)_proj", task_type="CAUSAL_LM"),
}
REFUSED = {
    "adalora": (peft.AdaLoraConfig(init_r=4, target_r=2, total_step=10, **LAYERS), "ADALORA moves its ranks"),
    "pvera": (peft.PveraConfig(r=4, **LAYERS | {"target_modules": ["q_proj"]}), "PVERA draws random numbers"),
    "lily": (peft.LilyConfig(**LAYERS), "LILY lets (a token see those that follow|one row change another)"),
    "activated": (LoraConfig(r=4, alora_invocation_tokens=[5, 6], **LAYERS), "activated LoRA .* begins in the middle"),
    "poly": (peft.PolyConfig(r=4, **LAYERS), "POLY computes more than its layers do"),
}
RANDOM = {
    "fourier": peft.FourierFTConfig(n_frequency=20, **LAYERS),
    "lora": LoraConfig(r=4, init_lora_weights=False, **LAYERS),
}
IDS = torch.arange(3, 60)[None]
ROWS = ragged_pairs(6)


def trainer(model: Any, folder: Path, tokenizer: Any, peft_config: Any = None) -> DPOTrainer:
    args = DPOConfig(**quiet(folder, max_steps=1, learning_rate=1e-2, per_device_train_batch_size=6))
    return DPOTrainer(model, args=args, train_dataset=ROWS, processing_class=tokenizer, peft_config=peft_config)


def first_loss(trained: DPOTrainer) -> float:
    trained.train()
    return float(trained.state.log_history[0]["loss"])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_as_the_model_and_is_saved_and_merged_as_trained(kind: str, tmp_path: Path, tokenizer: Any) -> None:
    tiny_llama().save_pretrained(tmp_path / "base")
    fresh = trainer(load_policy(str(tmp_path / "base")), tmp_path, tokenizer, KINDS[kind])
    before = logits(fresh.model)
    torch.testing.assert_close(before, logits(tiny_llama()), rtol=1e-5, atol=1e-5)
    assert first_loss(fresh) == pytest.approx(math.log(2), abs=1e-6)
    trained = logits(fresh.model)
    assert (trained - before).abs().max() > 1e-4
    fresh.save_model(str(tmp_path / "saved"))
    carried = load_policy(str(tmp_path / "saved"))
    assert torch.equal(logits(carried), trained)
    torch.testing.assert_close(logits(merge_adapter(carried)), trained, rtol=1e-4, atol=1e-4)
    assert first_loss(trainer(carried, tmp_path / "second", tokenizer)) == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_train_as_another_is_refused(kind: str, tmp_path: Path, tokenizer: Any) -> None:
    config, said = REFUSED[kind]
    with pytest.raises(ValueError, match=said):
        trainer(tiny_llama(), tmp_path, tokenizer, config)


def test_what_is_refused_is_so_in_peft_itself() -> None:
    """PVeRA says something else each time in training; under Lily a token changes with those behind it."""
    states = {}
    for kind in ("pvera", "lily"):
        model = get_peft_model(tiny_llama(), REFUSED[kind][0])
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
            states[kind] = [model.train()(ids).logits[0, :4] for ids in (IDS, IDS, IDS[:, :4])]
    assert not torch.allclose(states["pvera"][0], states["pvera"][1], atol=1e-4)
    assert torch.equal(states["lily"][0], states["lily"][1])
    assert not torch.allclose(states["lily"][0], states["lily"][2], atol=1e-3)


@pytest.mark.parametrize("kind", ["ia3", "oft", "pvera"])
def test_the_trial_leaves_the_weights_and_the_random_numbers_alone(kind: str) -> None:
    config = KINDS[kind] if kind in KINDS else REFUSED[kind][0]
    model = add_adapter(tiny_llama(), config, gradient_checkpointing=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    flags, random, mode = [p.requires_grad for p in model.parameters()], torch.get_rng_state(), model.training
    try:
        check_trains(model)
    except ValueError:
        assert kind == "pvera"
    warn_of_start(model)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert torch.equal(random, torch.get_rng_state()) and model.training == mode
    assert [p.requires_grad for p in model.parameters()] == flags


@pytest.mark.parametrize("kind", RANDOM)
def test_a_fresh_adapter_that_is_random_is_told_of(
    kind: str, tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """With the figure that PEFT's own switch gives: of the logits with the adapter and without."""
    with caplog.at_level(logging.WARNING, "prefopt"):
        model = trainer(tiny_llama(), tmp_path, tokenizer, RANDOM[kind]).model
        row = torch.arange(8)[None]
        with torch.no_grad():
            adapted = model.eval()(row).logits
            with model.disable_adapter():
                difference = (adapted - model(row).logits).abs().max().item()
    said = [message for message in caplog.messages if "changes the model before it has learnt" in message]
    assert len(said) == 1 and f"by up to {difference:.2g}." in said[0]


def test_an_adapter_that_rewrites_its_base_is_not(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "prefopt"):
        trainer(tiny_llama(), tmp_path, tokenizer, LoraConfig(r=4, init_lora_weights="pissa", **LAYERS))
    assert not [message for message in caplog.messages if "before it has learnt" in message]

"""A generation config that transformers would not save is mended, or refused, when the model comes in."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from prefopt import DPOConfig, DPOTrainer
from prefopt.models.load import load_policy
from tests.helpers.models import tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

LLAMA2: dict[str, Any] = {"do_sample": False, "temperature": 0.9, "top_p": 0.6}
LORA = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")


def with_config(**settings: Any) -> Any:
    model = tiny_llama()
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    return model


@pytest.mark.parametrize("how", ["object", "name", "adapter"])
def test_it_trains_and_is_saved(how: str, tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = with_config(**LLAMA2)
    if how == "name":
        folder = tmp_path / "base"
        tiny_llama().save_pretrained(folder)
        settings = json.loads((folder / "generation_config.json").read_text())
        (folder / "generation_config.json").write_text(json.dumps(settings | LLAMA2))
        model = str(folder)
    elif how == "adapter":
        model = get_peft_model(model, LORA)
    args = DPOConfig(**quiet(tmp_path, max_steps=1, save_strategy="steps", save_steps=1))
    with caplog.at_level(logging.WARNING, "prefopt"):
        trainer = DPOTrainer(model, args=args, train_dataset=ragged_pairs(2), processing_class=tokenizer)
    assert caplog.text.count("temperature=0.9, top_p=0.6 taken out") == 1
    trainer.train()
    trainer.save_model(str(tmp_path / "end"))
    if how == "adapter":
        trainer.model.merge_and_unload().save_pretrained(tmp_path / "end")
    for saved in (tmp_path / "run/checkpoint-1", tmp_path / "end"):
        if how != "adapter" or saved.name == "end":
            kept = GenerationConfig.from_pretrained(saved)
            assert (kept.do_sample or False, kept.temperature, kept.top_p) == (False, None, None)
            assert kept.eos_token_id == tokenizer.eos_token_id


def test_what_is_generated_stays_the_same() -> None:
    ids = torch.tensor([[5, 6, 7]])
    settings = {**LLAMA2, "length_penalty": 0.5, "max_new_tokens": 5}
    expected = with_config(**settings).generate(ids)
    assert torch.equal(load_policy(with_config(**settings)).generate(ids), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": True, "temperature": 0.9, "top_p": 0.6, "top_k": 3},
        {"num_beams": 4, "early_stopping": True, "length_penalty": 0.5},
        {"temperature": 1.0, "max_new_tokens": 7},
        {},
    ],
)
def test_what_is_right_is_left_alone(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    before = with_config(**settings).generation_config.to_dict()
    with caplog.at_level(logging.WARNING, "prefopt"):
        assert load_policy(with_config(**settings)).generation_config.to_dict() == before
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("settings", "dropped"),
    [
        ({"num_beams": 4, "do_sample": False, "temperature": 0.5, "length_penalty": 0.5}, "temperature=0.5"),
        ({"do_sample": True, "temperature": 0.5, "length_penalty": 0.5}, "length_penalty=0.5"),
        ({"pad_token_id": -1}, "pad_token_id=-1"),
    ],
)
def test_only_what_is_never_read_goes(
    settings: dict[str, Any], dropped: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = with_config(**settings)
    with pytest.raises(ValueError):
        model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, "prefopt"):
        load_policy(model).save_pretrained(tmp_path)
    assert f": {dropped} taken out" in caplog.text
    name = dropped.split("=")[0]
    kept = {key: value for key, value in settings.items() if key != name}
    assert {key: getattr(model.generation_config, key) for key in kept} == kept


def test_what_cannot_be_mended_is_refused_before_training(tmp_path: Path, tokenizer: Any) -> None:
    model = with_config(do_sample=False, num_return_sequences=3)
    with pytest.raises(ValueError, match=r"generation_config of LlamaForCausalLM .*num_return_sequences"):
        DPOTrainer(model, args=DPOConfig(**quiet(tmp_path)), train_dataset=ragged_pairs(2), processing_class=tokenizer)

"""What transformers writes under other names than the model has for its weights is read back as it was."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import nn

from prefopt.models.checkpoint_names import conversions_of
from prefopt.models.whole_weights import load_whole_weights
from tests.helpers.families import TEXT, WITH_IMAGES, tiny_family
from tests.helpers.models import tiny_llama


def assert_read_back(model: Any, other: Any, folder: Path) -> None:
    """What is saved of one model makes the other the same."""
    model.save_pretrained(folder)
    load_whole_weights(other, folder)
    read = other.state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(read[name], weight), name


def differently(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    return model


@pytest.mark.parametrize("name", [*TEXT, *WITH_IMAGES])
def test_every_family_is_read_back(name: str, tmp_path: Path) -> None:
    assert_read_back(tiny_family(name), differently(tiny_family(name, seed=1)), tmp_path)


@pytest.mark.parametrize("name", ["Qwen3Moe", "DeepseekV3", "Llava"])
def test_so_is_one_that_was_loaded(name: str, tmp_path: Path) -> None:
    tiny_family(name).save_pretrained(tmp_path / "first")
    model = type(tiny_family(name)).from_pretrained(tmp_path / "first")
    assert_read_back(differently(model), tiny_family(name, seed=1), tmp_path / "second")


def test_more_than_ten_experts_in_several_files_keep_their_order(tmp_path: Path) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24}
    config = hf.MixtralConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, num_local_experts=12)
    torch.manual_seed(0)
    model, other = hf.MixtralForCausalLM(config), hf.MixtralForCausalLM(config)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    load_whole_weights(other, tmp_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], weight), name


@pytest.mark.parametrize("lost", [r"layers\.1\.mlp\.experts\.2\.up_proj", r"layers\.1\.mlp\.experts\.3\."])
def test_a_missing_expert_is_told(lost: str, tmp_path: Path) -> None:
    """A matrix of it, or all that is its own."""
    model = tiny_family("Qwen3Moe")
    model.save_pretrained(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    save_file({n: w for n, w in whole.items() if not re.search(lost, n)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.experts"):
        load_whole_weights(model, tmp_path)


def test_only_what_is_held_otherwise_is_converted() -> None:
    assert not conversions_of(tiny_llama()) and not conversions_of(nn.Linear(2, 2))
    assert all(conversions_of(tiny_family(name)) for name in ("Qwen3Moe", "DeepseekV3"))

"""A model that was cast to 16 bits is, once handed in, the model that its saved weights give."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from prefopt.models import load_policy, load_scorer
from prefopt.models.rotary import restore_frequencies

SIZES: dict[str, Any] = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}
SCALED = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS)),
    "llama, scaled": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, rope_parameters=SCALED)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, **HEADS, head_dim=8)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_model_gives_what_its_saved_weights_give(
    name: str, dtype: torch.dtype, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    cast = copy.deepcopy(model).to(dtype)
    cast.save_pretrained(tmp_path)
    cast.set_attn_implementation("eager")  # torch's own attention wants instructions that not every setting allows
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype, attn_implementation="eager").eval()
    ids = torch.randint(100, (1, 1500))
    with torch.no_grad():
        expected, before = loaded(ids).logits, cast(ids).logits
        assert not torch.equal(before, expected), "transformers has mended it: this room can go"
        with caplog.at_level(logging.WARNING, "prefopt.models"):
            given = load_policy(cast)
        assert torch.equal(given(ids).logits, expected)
    assert "cast to 16 bits" in caplog.text and restore_frequencies(given) == 0


def test_other_precisions_and_scorers(caplog: pytest.LogCaptureFixture) -> None:
    for dtype in (torch.float32, torch.float64):
        assert restore_frequencies(MODELS["llama"]().to(dtype)) == 0
    scorer: Any = load_scorer(MODELS["llama"]().to(torch.bfloat16))
    assert {buffer.dtype for name, buffer in scorer.named_buffers() if "inv_freq" in name} == {torch.float32}


def test_a_class_that_cannot_be_made_again_is_refused() -> None:
    class Rotary(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("inv_freq", torch.ones(2))

    model = MODELS["llama"]()
    model.model.rotary_emb = Rotary()
    with pytest.raises(ValueError, match=r"model.rotary_emb \(Rotary\) has its frequencies in 16 bits"):
        load_policy(model.to(torch.bfloat16))

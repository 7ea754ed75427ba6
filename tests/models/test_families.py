"""Families beyond the fourteen of `tests.helpers.models`: the numbers of transformers for one bare row, or an error."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn
from transformers import AutoModelForSequenceClassification

from prefopt.models import layout_selection
from prefopt.models.forward import forward
from prefopt.models.heads import scorer_from_policy
from prefopt.models.layout_selection import request_layout
from prefopt.models.load import load_policy
from prefopt.models.modes import stop_rescaling
from tests.helpers.by_hand import alone, assert_equals_loop, assert_near, by_hand, with_adapter
from tests.helpers.families import ON_PADDED_ROWS, TEXT, WITH_IMAGES, tiny_family
from tests.helpers.models import COMMON
from tests.helpers.rows import ragged

LOGPS = frozenset({"logps"})


@pytest.mark.parametrize("name", [*TEXT, *WITH_IMAGES])
def test_log_probs_and_gradients_are_those_of_one_bare_row(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """On the layout that the model can run on; why it is padded rows is said."""
    model = tiny_family(name)
    model.config.use_cache = False  # RWKV's is written in place, which leaves no gradient
    layout_selection._logged.clear()
    with caplog.at_level(logging.WARNING, "prefopt.models.layout_selection"):
        assert_equals_loop(model, ragged(k=2), 1e-4)
    said = [record.message for record in caplog.records if record.name == "prefopt.models.layout_selection"]
    if name in ON_PADDED_ROWS:
        assert layout_selection._selected[model].layout == "padded"
        assert [f"{type(model).__name__} runs on padded rows, which is slower: on packed rows" in s for s in said] == [
            True
        ]
    else:
        assert layout_selection._selected[model].layout == "segments" and not said


@pytest.mark.parametrize("name", sorted(ON_PADDED_ROWS))
def test_padding_does_not_reach_a_row(name: str) -> None:
    """Bit for bit, whatever the ids in the padding are: RWKV and RecurrentGemma know no mask.

    But for rounding where experts share out the tokens, padding among them: an expert's matrix products round by how
    many tokens it has (seen with MKL_CBWR=COMPATIBLE).
    """
    model, batch = tiny_family(name), ragged(k=2)
    request_layout(model, "padded")
    with torch.no_grad():
        expected = forward(model, batch, LOGPS).logps
        for column, mask in (("prompt_ids", batch.prompt_mask), ("response_ids", batch.response_mask)):
            batch[column] = batch[column].masked_fill(~mask, 7)
        found = forward(model, batch, LOGPS).logps
        if any("expert" in name for name, _ in model.named_parameters()):
            assert_near(found, expected, 5e-7)
        else:
            assert torch.equal(found, expected)


SCORERS = [
    name
    for name in TEXT
    if getattr(hf, f"{name}Config") in AutoModelForSequenceClassification._model_mapping and name in ON_PADDED_ROWS
]


@pytest.mark.parametrize("name", SCORERS)
def test_scores_are_those_of_one_bare_row(name: str) -> None:
    scorer, batch = scorer_from_policy(tiny_family(name)), ragged(k=2)
    with torch.no_grad():
        scores = forward(scorer, batch, frozenset({"scores"})).scores
        for g, k in batch.present.nonzero().tolist():
            prompt, response = alone(batch, g, k)
            hidden = scorer.base_model(input_ids=torch.tensor([prompt + response]), use_cache=False)[0]
            assert_near(scores[g, k], scorer.score(hidden)[0, -1, 0], 1e-5)


@pytest.mark.parametrize("name", ["Mamba2", "Rwkv", "Qwen3Next", "Qwen2_5_VL"])
def test_under_an_adapter(name: str) -> None:
    modules = [
        n.rpartition(".")[2] for n, m in tiny_family(name).base_model.named_modules() if isinstance(m, nn.Linear)
    ]
    own = {"q_proj", "in_proj", "in_proj_qkvz", "key", "value"} & set(modules)
    model = with_adapter(tiny_family(name), target_modules=sorted(own))
    expected = by_hand(model.get_base_model(), ragged(k=2))["logps"]
    out = forward(model, ragged(k=2), LOGPS).logps
    assert_near(out[ragged(k=2).response_mask], expected, 1e-4)


@pytest.mark.parametrize("name", ["Bert", "Roberta"])
def test_a_model_that_sees_what_follows_is_an_error(name: str) -> None:
    """Its log-probs would be of a token that it is shown. RoBERTa also begins to count positions at 2."""
    torch.manual_seed(0)
    model = getattr(hf, f"{name}ForCausalLM" if name == "Roberta" else "BertLMHeadModel")(
        getattr(hf, f"{name}Config")(**COMMON)
    )
    with pytest.raises(ValueError, match=r"for a row alone .*not a causal language model.*is_decoder=True"):
        forward(model.eval(), ragged(k=2), LOGPS)


def test_in_half_precision_it_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = hf.BertLMHeadModel(hf.BertConfig(**COMMON)).bfloat16().eval()
    layout_selection._logged.clear()
    with torch.no_grad():
        assert forward(model, ragged(k=2), LOGPS).logps is not None
    assert "BertLMHeadModel gives other hidden states for a row alone" in caplog.text


def test_a_decoder_that_was_made_of_an_encoder() -> None:
    torch.manual_seed(0)
    model = hf.BertLMHeadModel(hf.BertConfig(**COMMON, is_decoder=True)).eval()
    assert_equals_loop(model, ragged(k=2), 1e-4)


@pytest.mark.parametrize("name", [*WITH_IMAGES, "Mamba", "GptOss"])
def test_a_model_is_loaded_by_name(name: str, tmp_path: Path) -> None:
    """transformers keeps models of images and text apart from language models."""
    model = tiny_family(name)
    model.save_pretrained(tmp_path)
    loaded = load_policy(str(tmp_path))
    assert type(loaded) is type(model)
    with torch.no_grad():
        expected = forward(model, ragged(k=2), LOGPS).logps
        assert torch.equal(forward(loaded.eval(), ragged(k=2), LOGPS).logps, expected)


def test_an_adapter_of_a_model_of_images_is_loaded_by_name(tmp_path: Path) -> None:
    tiny_family("Llava").save_pretrained(tmp_path / "base")
    base = load_policy(str(tmp_path / "base"))
    adapted = with_adapter(base, target_modules=["q_proj"])
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = load_policy(str(tmp_path / "adapter"))
    with torch.no_grad():
        expected = forward(adapted, ragged(k=2), LOGPS).logps
        torch.testing.assert_close(forward(loaded.eval(), ragged(k=2), LOGPS).logps, expected)


@pytest.mark.parametrize("evaluated", [False, True])
def test_weights_are_the_same_in_both_modes(evaluated: bool, tmp_path: Path) -> None:
    """RWKV rescales its weights in evaluation mode: a model that is saved after an evaluation would be another."""
    config = copy.deepcopy(tiny_family("Rwkv").config)
    config.rescale_every = 1
    torch.manual_seed(0)
    model: Any = hf.RwkvForCausalLM(config)
    expected = copy.deepcopy(model.state_dict())
    if evaluated:
        with torch.no_grad():
            model.eval()(torch.tensor([[5, 6, 7]]))
        assert not torch.equal(
            model.rwkv.blocks[1].attention.output.weight, expected["rwkv.blocks.1.attention.output.weight"]
        )
    stop_rescaling(model)
    with torch.no_grad():
        model.eval()(torch.tensor([[5, 6, 7]]))
    model.save_pretrained(tmp_path)
    saved = load_policy(str(tmp_path)).state_dict()
    torch.testing.assert_close(saved, expected, rtol=0, atol=0)

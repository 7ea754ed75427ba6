"""Responses of models whose rotary frequencies depend on the length come from one set of them, that of the row."""

from __future__ import annotations

import importlib

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from prefopt.generation import sample
from prefopt.generation.beams import beam_search
from tests.helpers.rope import LIMIT, alone, make

sampling = importlib.import_module("prefopt.generation.sampling")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
NEW = 6


def tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<eos>": 1, **{letter: i for i, letter in enumerate(LETTERS, start=2)}}
    rest = {f"<{i}>": i for i in range(len(words), 61)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(words | rest, [])),
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
    )


def text(*lengths: int) -> list[list[dict[str, str]]]:
    return [[{"role": "text", "content": (LETTERS * 2)[:length]}] for length in lengths]


@pytest.mark.parametrize("way", ["fast loop", "generate", "beams"])
def test_short_and_long_prompts_together(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "is_supported", lambda *_: way == "fast loop")
    model, prompts = make("phi3, longrope"), text(3, 40, LIMIT - NEW, LIMIT + 1)
    search = beam_search if way == "beams" else sample
    with torch.no_grad():
        found = search(
            model, tokenizer(), prompts, k=2, max_new_tokens=NEW, **({"groups": 1} if way == "beams" else {})
        )
        lengths = set()
        for of_prompt in found:
            for response in of_prompt:
                expected = alone(make("phi3, longrope"), response.prompt_ids, response.ids)
                torch.testing.assert_close(torch.tensor(response.logps).double(), expected, rtol=1e-5, atol=1e-5)
                lengths.add(len(response.prompt_ids) > LIMIT)
    assert lengths == {False, True}


@pytest.mark.parametrize("search", [sample, beam_search])
def test_a_response_that_may_cross_is_refused(search) -> None:
    model = make("phi3, longrope")
    with pytest.raises(ValueError, match=rf"prompt 1 has 18 tokens.*beyond {LIMIT} tokens.*at most 2 tokens"):
        search(model, tokenizer(), text(3, 18), max_new_tokens=3)
    with pytest.raises(ValueError, match=f"more than the model's {LIMIT} positions"):
        search(make("llama, dynamic"), tokenizer(), text(18), max_new_tokens=3)
    assert len(sample(make("llama, dynamic"), tokenizer(), text(18), max_new_tokens=2)) == 1

"""Templates of models that read images take contents as lists of parts: no text of a turn is left out of a prompt."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from prefopt.data import Encoding, encode_dataset, encode_prompt, load_sft
from prefopt.data.encode import stop_token_ids
from tests.helpers.tokenizers import CHATML, make_tokenizer

LOOP = "{% for part in content %}"
SILENT = (
    "{% macro texts(content) %}" + LOOP + "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endmacro %}" + CHATML.replace("m['content'] +", "texts(m['content']) +")
)
"""Goes through the letters of plain text, and finds no part."""
RAISING = SILENT.replace(LOOP, LOOP + "{% if part is string %}{{ raise_exception('no parts') }}{% endif %}")
SYSTEM = {"role": "system", "content": "简短。"}
TALK = [SYSTEM, {"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]
ASK = {"role": "user", "content": "Name a fruit 🍎"}


@pytest.mark.parametrize("template", [SILENT, RAISING], ids=["silent", "raising"])
def test_parts_are_written_as_plain_text_is(template: str) -> None:
    plain, parts = make_tokenizer(CHATML, eos="<|im_end|>"), make_tokenizer(template, eos="<|im_end|>")
    if template == SILENT:
        assert "fruit" not in parts.apply_chat_template([ASK], tokenize=False)
    assert encode_prompt([*TALK, ASK], parts) == encode_prompt([*TALK, ASK], plain)
    assert stop_token_ids(parts) == stop_token_ids(plain)
    rows = load_sft([{"messages": [*TALK, ASK, {"role": "assistant", "content": "苹果。"}]}])
    assert encode_dataset(rows, parts, Encoding())[0] == encode_dataset(rows, plain, Encoding())[0]


def published(name: str, eos: str) -> PreTrainedTokenizerFast:
    found = find_spec("trl")
    if found is None or found.origin is None:
        pytest.skip("TRL is a test-only dependency and is not installed")
    template = (Path(found.origin).parent / "chat_templates" / f"{name}.jinja").read_text("utf-8")
    tokenizer = make_tokenizer(template)
    tokenizer.add_special_tokens({"eos_token": eos})
    return tokenizer


@pytest.mark.parametrize(
    ("name", "eos"),
    [
        ("qwen3", "<|im_end|>"),
        ("qwen2_5_vl", "<|im_end|>"),
        ("qwen3_vl", "<|im_end|>"),
        ("gemma3", "<end_of_turn>"),
        ("smolvlm", "<end_of_utterance>"),
        ("idefics3", "<end_of_utterance>"),
        ("llava_next", "</s>"),
        ("gptoss", "<|return|>"),
        ("deepseekv3", "<｜end▁of▁sentence｜>"),
    ],
)
@pytest.mark.parametrize("parts", [[*TALK[1:], ASK], [*TALK, ASK], [ASK]], ids=["talk", "with system", "one"])
def test_published_templates_leave_no_text_out(name: str, eos: str, parts: list[Any]) -> None:
    """In their order, and the response ends with the token that ends the model's turn."""
    tokenizer = published(name, eos)
    text = tokenizer.decode(encode_prompt(parts, tokenizer))
    places = [text.find(turn["content"]) for turn in parts]
    assert -1 not in places and places == sorted(places)
    rows = load_sft([{"messages": [*parts, {"role": "assistant", "content": "苹果。"}]}])
    response = encode_dataset(rows, tokenizer, Encoding())[0]["response_ids"][-1]
    assert tokenizer.decode(response).endswith("苹果。" + eos)

"""A prompt is encoded once on its way to a policy, whoever checks it and however many of them it goes through."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prefopt.candidates import Origin, Pool, best_of_n, generate_into, search_temperatures
from prefopt.candidates.dataset_answers import DatasetAnswers
from prefopt.data import encode_dataset, load, set_template_defaults
from prefopt.data.encode import encode_prompt
from prefopt.data.row_encoder import UNREAD, Encoder
from prefopt.generation import EncodedPrompts, beam_search, encode_prompts, sample
from prefopt.objectives.sampling_arguments import SamplingArguments
from prefopt.scoring import CallableScorer
from tests.helpers.models import tiny_llama
from tests.helpers.tokenizers import TOOLS, make_tokenizer

PROMPTS = [[{"role": "user", "content": text}] for text in ("Hi", "What is 2 + 2?", "你好！怎么烤蛋糕？", "Bye")]
MIXED = SamplingArguments(responses_per_prompt=4, max_new_tokens=6, source="mixed", sampling_batch_size=2)


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each prompt was encoded to be sampled from."""
    counts: Counter[str] = Counter()
    alone = Encoder.encode_prompt

    def counting(self: Encoder, prompt: Any) -> list[int]:
        counts[prompt[-1]["content"]] += 1
        return alone(self, prompt)

    monkeypatch.setattr(Encoder, "encode_prompt", counting)
    return counts


def lengths(prompts: Any, responses: Any) -> list[float]:
    return [float(len(response)) for response in responses]


def test_a_pool_encodes_each_prompt_once(tokenizer, tmp_path: Path, encodings: Counter[str]) -> None:
    """Sampled from and searched, in chunks, after the check of all of them."""
    assert generate_into(Pool(tmp_path), tiny_llama(), tokenizer, PROMPTS, MIXED, Origin("v", 3)) == 16
    assert encodings == {prompt[-1]["content"]: 1 for prompt in PROMPTS}


def test_a_temperature_search_encodes_each_prompt_once(tokenizer, tmp_path: Path, encodings: Counter[str]) -> None:
    """At all temperatures and in all rounds."""
    settings = SamplingArguments(responses_per_prompt=4, max_new_tokens=12, stop_strings=["e", "a", "o"])
    grid: Any = {"temperatures": [0.5, 1.0, 1.5], "folder": tmp_path, "version": "v", "seed": 0, "halving": True}
    prompts = [[{"role": "user", "content": f"What is {number}?"}] for number in range(6)]
    search_temperatures(
        tiny_llama(), tokenizer, prompts, CallableScorer(lengths), settings, max_truncated=1, max_degenerate=1, **grid
    )
    assert len(encodings) == 6 and set(encodings.values()) == {1}


def test_the_best_of_n_encodes_each_prompt_once(tokenizer, encodings: Counter[str]) -> None:
    best_of_n(tiny_llama(), tokenizer, PROMPTS, lengths, MIXED)
    assert encodings == {prompt[-1]["content"]: 1 for prompt in PROMPTS}


def test_encoded_prompts_are_answered_as_the_prompts_themselves(tokenizer, encodings: Counter[str]) -> None:
    policy = tiny_llama()
    encoded = encode_prompts(PROMPTS, tokenizer, policy, 6)
    assert encode_prompts(encoded, tokenizer, policy, 6) is encoded and encodings.total() == len(PROMPTS)
    for generate in (sample, beam_search):
        kept = generate(policy, tokenizer, encoded, k=4, max_new_tokens=6)
        assert encodings.total() == len(PROMPTS)
        assert kept == generate(policy, tokenizer, PROMPTS, k=4, max_new_tokens=6)
        encodings.subtract([prompt[-1]["content"] for prompt in PROMPTS])


def test_parts_of_encoded_prompts_keep_their_ids(tokenizer) -> None:
    encoded = encode_prompts(PROMPTS, tokenizer, tiny_llama(), 6)
    expected = [encode_prompt(prompt, tokenizer) for prompt in PROMPTS]
    assert [list(ids) for ids in encoded.ids] == expected and encoded.lengths == [*map(len, expected)]
    assert list(encoded) == PROMPTS and encoded[2] == PROMPTS[2]
    for part, numbers in ((encoded[1:3], [1, 2]), (encoded.at([3, 0, 3]), [3, 0, 3]), (encoded[4:], [])):
        assert isinstance(part, EncodedPrompts) and list(part) == [PROMPTS[number] for number in numbers]
        assert [list(ids) for ids in part.ids] == [expected[number] for number in numbers]


def test_ids_of_another_tokenizer_are_not_taken(tokenizer) -> None:
    """Nor is a prompt's room forgotten, where it has ids already."""
    other = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token=tokenizer.eos_token)
    policy = tiny_llama()
    encoded = encode_prompts(PROMPTS, other, policy, 6)
    assert other.chat_template is None and encoded.ids != encode_prompts(PROMPTS, tokenizer, policy, 6).ids
    kept = sample(policy, tokenizer, encoded, max_new_tokens=6)
    assert [row[0].prompt_ids for row in kept] == [encode_prompt(prompt, tokenizer) for prompt in PROMPTS]
    with pytest.raises(ValueError, match=r"prompt 0 has \d+ tokens.*max_new_tokens=256.*256 positions"):
        encode_prompts(encoded, other, policy, 256)


def test_prompts_with_tools_are_sampled_as_they_are_trained_on(tmp_path: Path) -> None:
    """From the row to the pool's file and back, whatever of the template they use."""
    tokenizer = make_tokenizer(TOOLS, eos="<|im_end|>")
    set_template_defaults(tokenizer, {"enable_thinking": False})
    tools, call = [{"name": "时钟"}], {"function": {"name": "时钟", "arguments": {}}}
    asked = {"prompt": PROMPTS[2], "chosen": "好。", "rejected": "不。"}
    told = [*PROMPTS[2], {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "9:00"}]
    rows = load(
        [
            asked,
            {**asked, "tools": tools},
            {**asked, "chat_template_kwargs": {"enable_thinking": True}},
            {**asked, "prompt": told},
        ]
    )[0]
    trained = [list(ids) for ids in encode_dataset(rows, tokenizer)["prompt_ids"]]
    assert len({tuple(ids) for ids in trained}) == 4
    prompts = DatasetAnswers(rows).prompts
    policy = tiny_llama(max_position_embeddings=1024)
    assert [list(ids) for ids in encode_prompts(prompts, tokenizer, policy, 4).ids] == trained
    sampled = sample(policy, tokenizer, prompts, max_new_tokens=4)
    assert [response.prompt_ids for (response,) in sampled] == trained
    assert generate_into(Pool(tmp_path), policy, tokenizer, prompts, MIXED, Origin("v", 3)) == 16
    kept = {candidate.prompt_key: candidate.prompt for candidate in Pool(tmp_path).candidates()}
    assert [list(ids) for ids in encode_prompts(list(kept.values()), tokenizer, policy, 4).ids] == trained


def test_what_the_template_does_not_read_of_prompts_is_said(tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    prompts = [PROMPTS[0], [{**PROMPTS[2][0], "tools": [{"name": "时钟"}]}]]
    with caplog.at_level(logging.WARNING, "prefopt.generation"):
        encode_prompts(prompts, tokenizer, tiny_llama(), 4)
    assert f"1 of 2 prompts: {UNREAD}" in caplog.text

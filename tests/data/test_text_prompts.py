"""Plain text prompts: user turns where the model speaks by a chat template, the same in training and in sampling."""

import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from prefopt import DPOConfig, DPOTrainer
from prefopt.data import DataError, encode_dataset, encode_prompt, load_preferences, load_prompts, load_sft
from prefopt.data.text_prompts import users_turns, with_turns
from tests.helpers.models import tiny_llama

ROWS = [
    {"prompt": " 说一种水果 ", "chosen": " 苹果。", "rejected": " 斧头。"},
    {"prompt": "Name a fruit", "chosen": "An apple. ", "rejected": "An axe."},
]
TEMPLATED = {"prompt": "Go on<|im_end|>", "chosen": " and on.", "rejected": " or not."}


def asked(prompt: str, tokenizer: Any) -> list[int]:
    """The ids after which a model answers this user's turn."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_with_a_template_a_bare_prompt_is_a_users_turn(chatml: Any, caplog: pytest.LogCaptureFixture) -> None:
    rows = load_preferences([*ROWS, TEMPLATED])
    with caplog.at_level(logging.WARNING, "prefopt.data"):
        turns = with_turns(rows, chatml)
    assert turns[0] == {"prompt": [{"role": "user", "content": "说一种水果"}], "chosen": "苹果。", "rejected": "斧头。"}
    assert turns[1]["chosen"] == "An apple."
    assert turns[2] == rows[2], "it brings its own template"
    assert "2 of 3 prompts are plain text" in caplog.text
    encoded = encode_dataset(turns, chatml)
    assert encoded[1]["prompt_ids"] == asked("Name a fruit", chatml)
    assert encoded[1]["prompt_ids"] == encode_prompt(with_turns(load_prompts(ROWS), chatml)[1]["prompt"], chatml)


def test_without_one_or_where_asked_it_is_verbatim(chatml: Any, plain: Any) -> None:
    rows = load_preferences(ROWS)
    assert with_turns(rows, plain) is rows and with_turns(rows, chatml, "verbatim") is rows
    assert with_turns(rows, plain, "user")[0]["prompt"] == [{"role": "user", "content": "说一种水果"}]
    text = chatml("Name a fruit", add_special_tokens=False)["input_ids"]
    assert encode_dataset(rows, chatml)[1]["prompt_ids"] == text
    with pytest.raises(DataError, match="text_prompts='turn'"):
        with_turns(rows, chatml, "turn")


@pytest.mark.parametrize("mode", ["auto", "user", "verbatim"])
def test_two_answers_and_a_verdict_follow_it_and_several_answers_answer_a_user(
    mode: str, chatml: Any, plain: Any
) -> None:
    pair = load_preferences([{"prompt": "Name a fruit", "chosen": "An apple.", "rejected": "An axe."}])
    judged = {"prompt": "Name a fruit", "response_a": "An axe.", "response_b": "An apple.", "winner": "b"}
    ranked = {"prompt": "Name a fruit", "responses": ["An apple.", "An axe."], "scores": [2, 1]}
    for tokenizer in (chatml, plain):
        for row, as_mode in ((judged, mode), (ranked, "user")):
            wanted = encode_dataset(with_turns(pair, tokenizer, as_mode), tokenizer)[0]
            found = encode_dataset(with_turns(load_preferences([row]), tokenizer, mode), tokenizer)[0]
            assert (found["prompt_ids"], found["response_ids"]) == (wanted["prompt_ids"], wanted["response_ids"])


def test_turns_documents_and_lists_stay_what_they_are(chatml: Any) -> None:
    for rows in (
        load_sft([{"text": "Once upon a time"}]),
        load_preferences([{"query": "x", "chosen": "y", "rejected": "z"}]),
    ):
        assert with_turns(rows, chatml) is rows
    ranked = Dataset.from_dict(
        {"prompt": [[{"role": "text", "content": "x"}]], "responses": [[" y", "z "]], "scores": [[1.0, 0.0]]}
    )
    assert users_turns(ranked)[0] == {
        "prompt": [{"role": "user", "content": "x"}],
        "responses": ["y", "z"],
        "scores": [1.0, 0.0],
    }


@pytest.mark.parametrize("mode", ["auto", "verbatim"])
def test_a_trainer_does_as_it_is_told(mode: str, chatml: Any, tmp_path: Path) -> None:
    args = DPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to=[], text_prompts=mode)
    trainer = DPOTrainer(
        tiny_llama(len(chatml), eos_token_id=chatml.eos_token_id, pad_token_id=chatml.pad_token_id),
        args=args,
        train_dataset=Dataset.from_list(ROWS),
        processing_class=chatml,
    )
    verbatim = chatml("Name a fruit", add_special_tokens=False)["input_ids"]
    expected = verbatim if mode == "verbatim" else asked("Name a fruit", chatml)
    assert trainer.train_dataset[1]["prompt_ids"] == expected

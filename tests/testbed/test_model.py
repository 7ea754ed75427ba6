"""The tiny tokenizer and policy: lossless, small, and the same from the same seed."""

import random

import pytest
import torch

from prefopt.testbed.annotators import demonstrate
from prefopt.testbed.language import LANGUAGES, REMARKS
from prefopt.testbed.model import _trained, build_policy, build_tokenizer
from prefopt.testbed.prompts import KINDS, answers, facts, follow_up, possible_answers, questions, sample_prompts
from prefopt.testbed.recipe import Recipe
from prefopt.testbed.rows import sft_rows


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(0)


def every_sentence() -> list[str]:
    texts = [s for phrases in REMARKS.values() for language in LANGUAGES for s in phrases.of(language)]
    for fact in (f for kind in KINDS for f in facts(kind)):
        for language in LANGUAGES:
            texts += [*questions(fact, language), follow_up(fact, language)]
            texts += [s for a in possible_answers(fact.form) for s in answers(fact, language, a)]
    return texts


def test_round_trip_of_every_sentence(tokenizer) -> None:
    for text in [*every_sentence(), "anything: Ünïcode 龘 \n\n 🙂", " leading space"]:
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_special_tokens_are_distinct_and_single(tokenizer) -> None:
    ids = tokenizer.convert_tokens_to_ids(["<pad>", "<eos>", "<user>", "<assistant>"])
    assert ids == [0, 1, 2, 3] and (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert tokenizer("<user>1<assistant>").input_ids[::2] == [2, 3]
    assert tokenizer.decode([2, *tokenizer("ok").input_ids, 1], skip_special_tokens=True) == "ok"


def test_digits_and_characters_stand_alone(tokenizer) -> None:
    assert len(tokenizer("12").input_ids) == 2
    assert len(tokenizer("法国的首都是巴黎。").input_ids) == 9


def test_the_chat_template(tokenizer) -> None:
    turns = [
        {"role": "user", "content": "那意大利呢？"},
        {"role": "assistant", "content": "是罗马。"},
        {"role": "user", "content": "And Japan?"},
    ]
    expected = "<user>那意大利呢？<assistant>是罗马。<eos><user>And Japan?<assistant>"
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == expected
    assert tokenizer.apply_chat_template(turns[:2], tokenize=False) == "<user>那意大利呢？<assistant>是罗马。<eos>"
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == tokenizer(expected, add_special_tokens=False).input_ids
    with pytest.raises(Exception, match="not system"):
        tokenizer.apply_chat_template([{"role": "system", "content": "x"}], tokenize=False)


def test_the_template_marks_what_the_assistant_said(tokenizer) -> None:
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    encoded = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    assert encoded["assistant_masks"] == [0, 0, 0, 1, 1]


def test_everything_fits(tokenizer) -> None:
    rng, recipe = random.Random(0), Recipe()
    for prompt in sample_prompts(1500, 0):
        response = tokenizer(demonstrate(prompt, rng)).input_ids
        whole = tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True)["input_ids"] + response
        assert len(response) < recipe.max_new_tokens and len(whole) < tokenizer.model_max_length


def test_the_seed_decides(tokenizer) -> None:
    first = tokenizer.get_vocab()
    _trained.cache_clear()
    assert build_tokenizer(0).get_vocab() == first
    state = torch.get_rng_state()
    a, b, c = (build_policy(tokenizer, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["model.embed_tokens.weight"], c["model.embed_tokens.weight"])


def test_the_policy_is_small_and_learns(tokenizer) -> None:
    policy = build_policy(tokenizer, 0)
    assert 0.5e6 <= policy.num_parameters() <= 2e6
    rows = sft_rows(16, 0)
    texts = [tokenizer.apply_chat_template(r["prompt"], tokenize=False, add_generation_prompt=True) for r in rows]
    batch = tokenizer([t + r["response"] for t, r in zip(texts, rows, strict=True)], padding=True, return_tensors="pt")
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=Recipe().sft_learning_rate)
    losses = []
    for _ in range(12):
        loss = policy(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]

"""A response is drawn from the policy's own distribution, by its own numbers, and ends where it should."""

from __future__ import annotations

import copy
import importlib
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from scipy.stats import chisquare
from tokenizers import Tokenizer, models
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from prefopt.data.encode import decode_response, encode_prompt
from prefopt.generation import Sample, sample
from tests.helpers.models import tiny_llama

sampling = importlib.import_module("prefopt.generation.sampling")
"""The module, which the function of the same name hides."""

QUESTIONS = ("法国的首都是哪里？", "What is 2 + 2?", "你好！怎么烤蛋糕？", "Hi", "Tell me how to cut paper. " * 3)
PROMPTS = [[{"role": "user", "content": question}] for question in QUESTIONS]
BARE = [{"role": "text", "content": "abc"}]
EOS = 1
UNLIKELY = 1e-3
"""A p-value below this fails. The seeds are fixed, so a test that passed once passes again."""


@pytest.fixture(scope="module")
def policy() -> LlamaForCausalLM:
    """In float64, where the order of a sum is far too small to move a token."""
    return tiny_llama(dtype=torch.float64)


@pytest.fixture(params=["fast loop", "generate"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways that a sample can come about."""
    if request.param == "generate":
        monkeypatch.setattr(sampling, "is_supported", lambda *_: False)
    return request.param


def ids_of(found: list[list[Sample]]) -> list[list[list[int]]]:
    return [[response.ids for response in responses] for responses in found]


def adapted(base: LlamaForCausalLM) -> Any:
    """A LoRA policy whose adapter changes its answers."""
    torch.manual_seed(5)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(base, config).to(torch.float64).eval()


# Streams of random numbers


def test_samples_do_not_touch_the_global_generator(policy, tokenizer) -> None:
    before = torch.get_rng_state()
    sample(policy, tokenizer, PROMPTS[:1], max_new_tokens=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7, "top_k": 20, "top_p": 0.9}, {"temperature": 0}])
def test_samples_do_not_depend_on_the_batch_size(policy, tokenizer, settings: dict[str, Any]) -> None:
    def draw(batch_size: int) -> list[list[Sample]]:
        return sample(policy, tokenizer, PROMPTS, k=3, max_new_tokens=10, batch_size=batch_size, **settings)

    together = draw(64)
    assert draw(1) == together and draw(4) == together


def test_samples_do_not_depend_on_the_other_prompts_or_on_k(policy, tokenizer) -> None:
    def draw(prompts: list[Any], k: int) -> list[list[Sample]]:
        return sample(policy, tokenizer, prompts, k=k, max_new_tokens=10)

    found = draw(PROMPTS, 3)
    assert draw(PROMPTS, 2) == [responses[:2] for responses in found]
    assert draw(PROMPTS[:2], 3) == found[:2]
    # A stream belongs to the prompt's number: prompt 2 stays as it is when the others change places.
    turned = draw([PROMPTS[i] for i in (4, 3, 2, 1, 0)], 3)
    assert turned[2] == found[2] and turned[0] != found[4]


def test_each_round_and_iteration_has_its_own_numbers(policy, tokenizer) -> None:
    def draw(**changes: Any) -> list[list[list[int]]]:
        return ids_of(sample(policy, tokenizer, PROMPTS[:2], k=2, max_new_tokens=8, **changes))

    streams: list[tuple[int, ...]] = [(), (0,), (0, 0), (0, 1), (1, 0), (1, 1)]
    assert len({str(draw(stream=stream)) for stream in streams}) == len(streams)
    assert draw(stream=(1, 0)) == draw(stream=(1, 0)) and draw(stream=()) == draw()


def test_a_prompt_keeps_its_numbers_by_its_key(policy, tokenizer) -> None:
    """As a resumed run needs it, which has only some prompts left."""
    names = ["a", "b", "c", "d", "e"]
    found = sample(policy, tokenizer, PROMPTS, k=2, max_new_tokens=8, keys=names)
    left = [3, 1]
    again = sample(policy, tokenizer, [PROMPTS[i] for i in left], k=2, max_new_tokens=8, keys=[names[i] for i in left])
    assert again == [found[i] for i in left]
    by_number = sample(policy, tokenizer, PROMPTS, k=2, max_new_tokens=8, keys=np.arange(5))
    assert by_number == sample(policy, tokenizer, PROMPTS, k=2, max_new_tokens=8) != found


@pytest.mark.parametrize("keys", [[0, 1, 2, 3, 3], [0, 1], list("abcdef")])
def test_keys_that_do_not_tell_the_prompts_apart_are_refused(policy, tokenizer, keys: list[Any]) -> None:
    with pytest.raises(ValueError, match=f"keys: {len(keys)} names.*for 5 prompts"):
        sample(policy, tokenizer, PROMPTS, keys=keys)


def test_the_seed_decides(policy, tokenizer) -> None:
    first, again, other = (sample(policy, tokenizer, PROMPTS, k=2, max_new_tokens=10, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert all(a.ids != b.ids for x, y in zip(first, other, strict=True) for a, b in zip(x, y, strict=True))


def test_responses_to_one_prompt_and_to_the_same_prompt_again_differ(policy, tokenizer) -> None:
    found = sample(policy, tokenizer, [PROMPTS[0], PROMPTS[0]], k=8, max_new_tokens=12)
    assert len({tuple(ids) for responses in ids_of(found) for ids in responses}) == 16


def test_policies_answer_with_common_random_numbers(policy, tokenizer) -> None:
    def draw(answering: Any) -> list[list[list[int]]]:
        return ids_of(sample(answering, tokenizer, PROMPTS, k=4, max_new_tokens=6))

    nearly, far = copy.deepcopy(policy), tiny_llama(seed=1, dtype=torch.float64)
    with torch.no_grad():
        for weight in nearly.parameters():
            weight.mul_(1 + 1e-9)
    assert draw(copy.deepcopy(policy)) == draw(policy) == draw(nearly) != draw(far)


# The distribution


@pytest.fixture(scope="module")
def small_tokenizer() -> PreTrainedTokenizerFast:
    """Eight tokens: the letters a to f, padding and EOS."""
    words = {"<pad>": 0, "<eos>": EOS, **{letter: i for i, letter in enumerate("abcdef", start=2)}}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(words, [])), pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


@pytest.fixture(scope="module")
def small_policy() -> LlamaForCausalLM:
    return tiny_llama(vocab=8, dtype=torch.float64, initializer_range=0.35)


def exact(policy: Any, prompt: list[int], shape: Callable[[list[float]], list[float]]) -> dict[tuple[int, ...], float]:
    """The probability of each response of at most two tokens, worked out without the sampler."""

    def following(ids: list[int]) -> list[float]:
        with torch.no_grad():
            return shape(policy(torch.tensor([ids])).logits[0, -1].tolist())

    found: dict[tuple[int, ...], float] = {}
    for first, p in enumerate(following(prompt)):
        if first == EOS:
            found[first,] = p
        elif p:
            found |= {(first, second): p * q for second, q in enumerate(following([*prompt, first]))}
    return {ids: p for ids, p in found.items() if p}


def shaped(temperature: float, top_k: int = 0, top_p: float = 1.0) -> Callable[[list[float]], list[float]]:
    """softmax(logits / temperature) on the `top_k` likeliest, then on the fewest of these that reach `top_p`."""

    def shape(logits: list[float]) -> list[float]:
        weights = {i: math.exp(logit / temperature) for i, logit in enumerate(logits)}
        ranked = sorted(weights, key=weights.__getitem__, reverse=True)[: top_k or None]
        total, kept, reached = sum(weights[i] for i in ranked), [], 0.0
        for i in ranked:
            if reached < top_p:
                kept.append(i)
            reached += weights[i] / total
        rest = sum(weights[i] for i in kept)
        return [weights[i] / rest if i in kept else 0.0 for i in range(len(logits))]

    return shape


def p_value(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """Chi-square with the cells that expect fewer than 5 put together."""
    n = counts.total()
    cells = [(counts[ids], n * p) for ids, p in expected.items()]
    large = [cell for cell in cells if cell[1] >= 5]
    rare = [cell for cell in cells if cell[1] < 5]
    if rare:
        large.append((sum(c for c, _ in rare), sum(e for _, e in rare)))
    return float(chisquare([c for c, _ in large], [e for _, e in large]).pvalue)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 0.6},
        {"temperature": 2},
        {"temperature": 1.5, "top_k": 3},
        {"temperature": 1.2, "top_p": 0.8},
        {"temperature": 1.5, "top_k": 5, "top_p": 0.7},
    ],
    ids=str,
)
def test_responses_are_as_frequent_as_they_are_likely(
    small_policy, small_tokenizer, way: str, settings: dict[str, Any]
) -> None:
    expected = exact(small_policy, [2, 3, 4], shaped(**settings))
    assert len(expected) > 8 or len(settings) > 1
    [found] = sample(small_policy, small_tokenizer, [BARE], k=3000, max_new_tokens=2, batch_size=3000, **settings)
    counts = Counter(tuple(response.ids) for response in found)
    assert found[0].prompt_ids == [2, 3, 4]
    assert set(counts) <= set(expected)
    assert p_value(counts, expected) > UNLIKELY
    # The test can tell: the same counts do not fit a temperature a quarter higher.
    warmer = exact(small_policy, [2, 3, 4], shaped(**settings | {"temperature": 1.25 * settings["temperature"]}))
    assert p_value(counts, warmer | dict.fromkeys(set(expected) - set(warmer), 1e-9)) < UNLIKELY


@pytest.mark.parametrize("settings", [{}, {"top_k": 3}, {"top_p": 0.5}])
def test_temperature_0_is_a_plain_argmax_loop(policy, tokenizer, settings: dict[str, Any]) -> None:
    found = sample(policy, tokenizer, PROMPTS, k=2, temperature=0, max_new_tokens=12, **settings)
    for prompt, (first, second) in zip(PROMPTS, found, strict=True):
        ids = encode_prompt(prompt, tokenizer)
        expected: list[int] = []
        while len(expected) < 12 and EOS not in expected:
            with torch.no_grad():
                expected.append(int(policy(torch.tensor([ids + expected])).logits[0, -1].argmax()))
        assert first.ids == second.ids == expected
        assert first.prompt_ids == ids


def test_top_k_1_is_greedy(policy, tokenizer) -> None:
    greedy = sample(policy, tokenizer, PROMPTS, temperature=0, max_new_tokens=6)
    assert sample(policy, tokenizer, PROMPTS, top_k=1, max_new_tokens=6) == greedy


# The end of a response


def test_a_response_ends_with_its_stop_token_or_is_cut(small_policy, small_tokenizer) -> None:
    [found] = sample(small_policy, small_tokenizer, [BARE], k=200, max_new_tokens=5)
    assert {response.finished for response in found} == {True, False}
    for response in found:
        assert EOS not in response.ids[:-1]
        assert response.finished == (response.ids[-1] == EOS)
        assert len(response.ids) <= 5 if response.finished else len(response.ids) == 5


def test_stop_tokens_of_the_generation_config_are_honoured(small_policy, small_tokenizer) -> None:
    stopping = copy.deepcopy(small_policy)
    stopping.generation_config.eos_token_id = [EOS, 4, 6]
    [found] = sample(stopping, small_tokenizer, [BARE], k=200, max_new_tokens=12)
    finished = [response for response in found if response.finished]
    assert {response.ids[-1] for response in finished} == {EOS, 4, 6}
    assert all(not {EOS, 4, 6} & set(response.ids[:-1]) for response in found)
    assert all(not {"c", "e"} & set(response.text) for response in found)


def test_text_is_the_response_without_its_stop_token(small_policy, small_tokenizer) -> None:
    [found] = sample(small_policy, small_tokenizer, [BARE], k=50, max_new_tokens=4)
    for response in found:
        letters = [i for i in response.ids if i > EOS]
        assert "".join(response.text.split()) == "".join("abcdef"[i - 2] for i in letters)


def test_chinese_text_comes_back(tokenizer) -> None:
    """A policy that recites: whatever comes in, its last token's successor in the text is the likeliest."""
    text = "是东京。祝你愉快！"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    [prompt] = [[{"role": "user", "content": "日本的首都是哪里？"}]]
    start = encode_prompt(prompt, tokenizer)[-1]
    assert len(set(ids)) == len(ids)
    [[response]] = sample(reciting(tokenizer, [start, *ids, EOS]), tokenizer, [prompt], max_new_tokens=32)
    assert response.ids == [*ids, EOS] and response.finished
    assert response.text == text == decode_response(response.ids, tokenizer)
    assert tokenizer.decode(response.prompt_ids) == "<user>日本的首都是哪里？<assistant>"


@pytest.mark.parametrize("stop", ["。", "祝你", ["不在", "京。"]])
def test_a_stop_string_cuts_the_text(tokenizer, way: str, stop: str | list[str]) -> None:
    text = "是东京。祝你愉快！"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    [prompt] = [[{"role": "user", "content": "日本的首都是哪里？"}]]
    model = reciting(tokenizer, [encode_prompt(prompt, tokenizer)[-1], *ids, EOS])
    [[response]] = sample(model, tokenizer, [prompt], max_new_tokens=32, stop_strings=stop)
    assert response.finish_reason == "stop_string" and response.finished
    assert response.text == text[: text.index(stop if isinstance(stop, str) else stop[1])]
    assert response.ids == ids[: len(response.ids)]  # no stop token is invented
    assert tokenizer.decode(response.ids).endswith(stop if isinstance(stop, str) else stop[1])
    assert len(response.logps) == len(response.ids) and max(response.logps) <= 0
    [[cut]] = sample(model, tokenizer, [prompt], max_new_tokens=2, stop_strings=stop)
    assert (cut.ids, cut.finish_reason, cut.finished) == (ids[:2], "length", False)


def test_a_stop_string_of_one_row_does_not_end_the_others(policy, tokenizer, way: str) -> None:
    plain = sample(policy, tokenizer, PROMPTS, k=3, max_new_tokens=12)
    letter = next(c for c in plain[0][0].text if c.strip())
    found = sample(policy, tokenizer, PROMPTS, k=3, max_new_tokens=12, stop_strings=[letter])
    reasons = Counter(one.finish_reason for row in found for one in row)
    assert reasons["stop_string"] and reasons["length"] + reasons["stop"]
    for row, whole in zip(found, plain, strict=True):
        for one, other in zip(row, whole, strict=True):
            assert one.ids == other.ids[: len(one.ids)] and letter not in one.text
            assert (one == other) == (one.finish_reason != "stop_string")


def test_progress_shows_tokens_per_second(policy, tokenizer, capsys) -> None:
    sample(policy, tokenizer, PROMPTS, max_new_tokens=4, progress=True)
    assert "5/5" in (shown := capsys.readouterr().err) and "tokens/s" in shown
    sample(policy, tokenizer, PROMPTS, max_new_tokens=4)
    assert capsys.readouterr().err == ""


def reciting(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> LlamaForCausalLM:
    """A Llama without attention whose token ids[i] is followed by ids[i + 1]."""
    model = tiny_llama(vocab=len(tokenizer), hidden_size=64, num_hidden_layers=1)
    layer = model.model.layers[0]
    with torch.no_grad():
        for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight, model.lm_head.weight):
            weight.zero_()
        for place, (token, following) in enumerate(zip(ids, ids[1:], strict=False)):
            model.model.embed_tokens.weight[token] = torch.eye(64)[place]
            model.lm_head.weight[following] += 100 * torch.eye(64)[place]
    return model


# The policy's own generation settings, and its state

MEDDLING: dict[str, dict[str, Any]] = {
    "penalty": {"repetition_penalty": 1.5},
    "beams": {"num_beams": 3},
    "length": {"min_new_tokens": 9, "max_length": 4},
    "bans": {"suppress_tokens": list(range(2, 900)), "no_repeat_ngram_size": 1, "bad_words_ids": [[5]]},
    "sampling": {"do_sample": True, "temperature": 0.1, "top_k": 2, "top_p": 0.2, "min_p": 0.5, "typical_p": 0.3},
    "forced": {"forced_bos_token_id": 7, "forced_eos_token_id": 8, "begin_suppress_tokens": list(range(2, 900))},
    "outputs": {"return_dict_in_generate": True, "output_scores": True, "num_return_sequences": 2, "do_sample": True},
    "stops": {"stop_strings": ["a"], "max_time": 0.0, "use_cache": False},
}


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("changes", MEDDLING.values(), ids=list(MEDDLING))
def test_the_generation_config_changes_nothing(policy, tokenizer, changes: dict[str, Any], lora: bool) -> None:
    answering = adapted(copy.deepcopy(policy)) if lora else copy.deepcopy(policy)

    def draw() -> list[list[Sample]]:
        return [
            *sample(answering, tokenizer, PROMPTS, k=2, max_new_tokens=8, temperature=0.9),
            *sample(answering, tokenizer, PROMPTS, max_new_tokens=8, temperature=0),
        ]

    expected = draw()
    config = answering.generation_config
    for name, value in changes.items():
        setattr(config, name, value)
    before = config.to_dict()
    assert draw() == expected
    assert answering.generation_config is config and config.to_dict() == before


class Stopped(Exception):
    """What a failing policy raises."""


def fail(*_: Any, **__: Any) -> None:
    raise Stopped


@pytest.mark.parametrize("lora", ["plain", "lora", "lora with its own config"])
def test_the_policy_is_as_it_was_also_after_an_error(policy, tokenizer, lora: str) -> None:
    base = copy.deepcopy(policy)
    answering = base if lora == "plain" else adapted(base)
    inner, outer = base.generation_config, copy.deepcopy(base.generation_config)
    if lora == "lora with its own config":
        answering.generation_config = outer
    holders = {name for name, module in answering.named_modules() if "generation_config" in vars(module)}
    answering.train()
    base.model.layers[0].eval()
    modes = {name: module.training for name, module in answering.named_modules()}

    def assert_untouched() -> None:
        assert base.generation_config is inner
        assert answering.generation_config is (outer if lora == "lora with its own config" else inner)
        assert holders == {name for name, m in answering.named_modules() if "generation_config" in vars(m)}
        assert modes == {name: module.training for name, module in answering.named_modules()}

    sample(answering, tokenizer, PROMPTS[:1], max_new_tokens=2)
    assert_untouched()
    handle = base.model.register_forward_pre_hook(fail)
    with pytest.raises(Stopped):
        sample(answering, tokenizer, PROMPTS[:1], max_new_tokens=2)
    handle.remove()
    assert_untouched()


def test_dropout_is_off_while_sampling(tokenizer) -> None:
    dropping = tiny_llama(dtype=torch.float64, attention_dropout=0.5)
    expected = sample(dropping, tokenizer, PROMPTS, max_new_tokens=6)
    assert sample(dropping.train(), tokenizer, PROMPTS, max_new_tokens=6) == expected


def test_stop_tokens_of_an_adapters_own_config_are_honoured(small_policy, small_tokenizer) -> None:
    answering = adapted(copy.deepcopy(small_policy))
    answering.generation_config = copy.deepcopy(small_policy.generation_config)
    answering.generation_config.eos_token_id = [EOS, 4]
    [found] = sample(answering, small_tokenizer, [BARE], k=100, max_new_tokens=12)
    assert {response.ids[-1] for response in found if response.finished} == {EOS, 4}


def test_an_adapter_answers_as_its_merged_model(policy, tokenizer) -> None:
    answering = adapted(copy.deepcopy(policy))

    def draw(model: Any, temperature: float) -> list[list[list[int]]]:
        return ids_of(sample(model, tokenizer, PROMPTS, k=2, temperature=temperature, max_new_tokens=10))

    found = [draw(answering, temperature) for temperature in (0, 1)]
    with answering.disable_adapter():
        without = [draw(answering, temperature) for temperature in (0, 1)]
    assert without == [draw(policy, temperature) for temperature in (0, 1)]
    assert all(a != b for a, b in zip(found, without, strict=True))
    assert [draw(answering.merge_and_unload(), temperature) for temperature in (0, 1)] == found


# What is refused


@pytest.mark.parametrize(
    "settings",
    [
        {"k": 0},
        {"max_new_tokens": 0},
        {"batch_size": 0},
        {"temperature": -0.5},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"repetition_penalty": 0.0},
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(policy, tokenizer, settings: dict[str, Any]) -> None:
    [(name, value)] = settings.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        sample(policy, tokenizer, PROMPTS, **settings)


def test_a_prompt_tuned_policy_is_refused(policy, tokenizer) -> None:
    """As in forward. Its responses would depend on the padding of their batch."""
    config = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match="PROMPT_TUNING.*LoRA"):
        sample(get_peft_model(copy.deepcopy(policy), config), tokenizer, PROMPTS)


def test_a_prompt_that_leaves_no_room_is_named(policy, tokenizer) -> None:
    long = [{"role": "user", "content": "好" * 240}]
    room = 256 - len(encode_prompt(long, tokenizer))
    [[response]] = sample(policy, tokenizer, [long], max_new_tokens=room)
    assert len(response.ids) == room or response.finished
    with pytest.raises(
        ValueError, match=rf"prompt 1 has {256 - room} tokens.*max_new_tokens={room + 1}.*256 positions"
    ):
        sample(policy, tokenizer, [PROMPTS[0], long], max_new_tokens=room + 1)


def test_a_prompt_that_cannot_be_encoded_is_named(policy, tokenizer) -> None:
    with pytest.raises(ValueError, match="prompt 1: .*system"):
        sample(policy, tokenizer, [PROMPTS[0], [{"role": "system", "content": "Be kind."}]])


def test_no_prompts_no_samples(policy, tokenizer) -> None:
    assert sample(policy, tokenizer, []) == []

"""Beam search finds what a plain loop over all continuations finds, and its groups avoid one another's tokens."""

from __future__ import annotations

import copy
import importlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer, models
from torch.distributed.fsdp import FSDPModule
from transformers import GenerationConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM, PreTrainedTokenizerFast

from prefopt.data.encode import encode_prompt
from prefopt.generation import Sample, sample
from prefopt.generation.beams import beam_search
from tests.helpers.models import tiny, tiny_llama

beam = importlib.import_module("prefopt.generation.beams")
EOS = 1
STOPS = (EOS, 4, 6, 9)
"""Enough of them that responses end at different times."""
LETTERS = "abcdefghijklmnopqrstuv"
WORDS = ("abc", "d", "fade" * 4, "cafe")
TEXTS = [[{"role": "text", "content": word}] for word in WORDS]
QUESTIONS = ("法国的首都是哪里？", "What is 2 + 2?", "你好！怎么烤蛋糕？", "Hi", "Tell me how to cut paper. " * 3)
PROMPTS = [[{"role": "user", "content": question}] for question in QUESTIONS]
Ids = tuple[int, ...]


def letters(count: int) -> PreTrainedTokenizerFast:
    """Padding, EOS and the first letters."""
    words = {"<pad>": 0, "<eos>": EOS, **{letter: i for i, letter in enumerate(LETTERS[:count], start=2)}}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(words, [])), pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def small(vocab: int, seed: int = 0, stops: tuple[int, ...] = STOPS) -> LlamaForCausalLM:
    model = tiny_llama(vocab=vocab, seed=seed, dtype=torch.float64, initializer_range=0.35)
    model.generation_config.eos_token_id = list(stops)
    return model


@pytest.fixture(scope="module")
def policy() -> LlamaForCausalLM:
    """In float64, where the order of a sum is far too small to move a token."""
    return tiny_llama(dtype=torch.float64)


def ids_of(found: Iterable[Sample]) -> list[Ids]:
    return [tuple(response.ids) for response in found]


# The plain loop


class Plain:
    """Diverse beam search with every continuation of every beam in one list, and no cache."""

    def __init__(self, policy: Any, prompt: list[int], temperature: float = 1.0, stops: Iterable[int] = STOPS):
        self.policy, self.prompt, self.temperature, self.stops = policy, prompt, temperature, {*stops}
        self.seen: dict[Ids, list[float]] = {}

    def logps(self, ids: Ids) -> list[float]:
        if ids not in self.seen:
            with torch.no_grad():
                logits = self.policy(torch.tensor([[*self.prompt, *ids]])).logits[0, -1]
            self.seen[ids] = (logits / self.temperature).log_softmax(-1).tolist()
        return self.seen[ids]

    def total(self, ids: Ids) -> float:
        return sum(self.logps(ids[:place])[token] for place, token in enumerate(ids))

    def search(self, beams: int, groups: int, penalty: float, limit: int, length_penalty: float = 1.0) -> list[Ids]:
        live: list[list[tuple[float, Ids]]] = [[(0.0, ())] for _ in range(groups)]
        best: list[list[tuple[float, Ids]]] = [[] for _ in range(groups)]
        for age in range(1, limit + 1):
            taken: list[int] = []
            for g in range(groups):
                candidates = sorted(
                    (
                        (score + logp - penalty * taken.count(token), (*ids, token))
                        for score, ids in live[g]
                        for token, logp in enumerate(self.logps(ids))
                    ),
                    reverse=True,
                )
                over = [one for one in candidates[:beams] if one[1][-1] in self.stops or age == limit]
                live[g] = [one for one in candidates if one[1][-1] not in self.stops and age < limit][:beams]
                values = [(score / age**length_penalty, ids) for score, ids in over]
                best[g] = sorted(best[g] + values, reverse=True)[:beams]
                if len(best[g]) == beams and live[g] and live[g][0][0] / age**length_penalty <= best[g][-1][0]:
                    live[g] = []
                taken += [ids[-1] for _, ids in over + live[g]]
        found = [ids for group in best for _, ids in group]
        return sorted(found, key=lambda ids: -self.total(ids) / len(ids) ** length_penalty)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("groups", "beams"), [(1, 3), (2, 1), (2, 2), (4, 1), (4, 2)])
def test_it_finds_what_a_plain_loop_finds(seed: int, groups: int, beams: int) -> None:
    model, tokenizer = small(20, seed), letters(18)
    for penalty, temperature, length_penalty in ((1.0, 1.0, 1.0), (0.4, 0.8, 0.0), (3.0, 1.7, 2.0)):
        settings = {"diversity_penalty": penalty, "temperature": temperature, "length_penalty": length_penalty}
        k = groups * beams
        found = beam_search(model, tokenizer, TEXTS[:2], k=k, groups=groups, max_new_tokens=7, **settings)
        for prompt, responses in zip(TEXTS, found, strict=False):
            plain = Plain(model, encode_prompt(prompt, tokenizer), temperature)
            assert ids_of(responses) == plain.search(beams, groups, penalty, 7, length_penalty)


@pytest.mark.parametrize("family", ["mistral", "gemma3", "gpt2", "gpt_neox", "opt", "bloom", "granite"])
def test_it_finds_the_same_in_every_family(family: str) -> None:
    """Prompts of different lengths together, so that each family's padding, positions and cache count."""
    # BLOOM attends eagerly, which in float64 makes padding NaN: the mask's least number is rounded to minus infinity.
    model, tokenizer = tiny(family, torch.float32 if family == "bloom" else torch.float64), letters(18)
    model.generation_config.eos_token_id = list(STOPS)
    found = beam_search(model, tokenizer, TEXTS, k=4, groups=2, max_new_tokens=6)
    for prompt, responses in zip(TEXTS, found, strict=True):
        assert ids_of(responses) == Plain(model, encode_prompt(prompt, tokenizer)).search(2, 2, 1.0, 6)


def test_the_plain_loop_has_something_to_decide() -> None:
    """Groups that differ, responses of many lengths, and a penalty that changes what a group of two beams keeps."""
    lengths: Counter[int] = Counter()
    changed = 0
    for seed in range(4):
        model, tokenizer = small(20, seed), letters(18)
        [found] = beam_search(model, tokenizer, TEXTS[:1], k=8, groups=4, max_new_tokens=7)
        [alike] = beam_search(model, tokenizer, TEXTS[:1], k=8, groups=4, max_new_tokens=7, diversity_penalty=0.0)
        lengths.update(len(response.ids) for response in found)
        changed += set(ids_of(found)) != set(ids_of(alike))
        assert len(set(ids_of(alike))) == 2 < len(set(ids_of(found)))
    assert len(lengths) > 3 and changed == 4


@pytest.mark.parametrize("known", [0.5, 1])
def test_how_many_tokens_are_looked_up_first_changes_nothing(policy, tokenizer, monkeypatch, known: float) -> None:
    settings = {"k": 6, "groups": 3, "max_new_tokens": 8, "stop_strings": ["a", "e", "t"]}
    expected = beam_search(policy, tokenizer, PROMPTS[:3], **settings)
    sizes: list[int] = []
    topk = torch.Tensor.topk
    monkeypatch.setattr(torch.Tensor, "topk", lambda self, size: (sizes.append(size), topk(self, size))[1])
    assert beam_search(policy, tokenizer, PROMPTS[:3], **settings, looked_up=known) == expected
    assert min(sizes) == 6 * known < max(sizes)


# Plain beam search


@pytest.mark.parametrize(("temperature", "length_penalty"), [(1.0, 1.0), (0.7, 0.5), (1.0, 0.0), (1.0, -1.0)])
def test_one_wide_group_searches_exhaustively(temperature: float, length_penalty: float) -> None:
    """400 responses of at most three of eight tokens; 60 beams lose none of the 49 prefixes."""
    model, tokenizer = small(8, stops=(EOS,)), letters(6)
    plain = Plain(model, encode_prompt(TEXTS[0], tokenizer), temperature)
    going = [()]
    whole: list[Ids] = []
    for age in range(1, 4):
        longer = [(*ids, token) for ids in going for token in range(8)]
        whole += [ids for ids in longer if ids[-1] == EOS or age == 3]
        going = [ids for ids in longer if ids[-1] != EOS]
    whole.sort(key=lambda ids: -plain.total(ids) / len(ids) ** length_penalty)
    settings = {"groups": 1, "max_new_tokens": 3, "temperature": temperature, "length_penalty": length_penalty}
    [found] = beam_search(model, tokenizer, TEXTS[:1], k=60, **settings)
    assert ids_of(found) == whole[:60]
    [found] = beam_search(model, tokenizer, TEXTS[:1], k=500, **settings)
    assert ids_of(found) == whole and len(whole) == 400  # there are no more


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -0.5])
def test_one_group_is_the_beam_search_of_transformers(k: int, length_penalty: float) -> None:
    """With `early_stopping=False`, transformers' default, which ends a search by the same rule.

    k=1 is left out, where transformers is greedy without further ado. It has no stop strings in beam search that go by
    the text of the response alone, and rounds scores to float32.
    """
    for seed in range(3):
        model, tokenizer = small(20, seed), letters(18)
        settings = {"groups": 1, "max_new_tokens": 8, "length_penalty": length_penalty}
        found = beam_search(model, tokenizer, TEXTS, k=k, **settings)
        beams = {"num_beams": k, "num_return_sequences": k, "length_penalty": length_penalty, "do_sample": False}
        config = GenerationConfig(
            **beams, max_new_tokens=8, early_stopping=False, eos_token_id=[*STOPS], pad_token_id=0
        )
        for prompt, responses in zip(TEXTS, found, strict=True):
            ids = torch.tensor([encode_prompt(prompt, tokenizer)])
            lines = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config).tolist()
            theirs = [line[ids.shape[1] :] for line in lines]
            ends = [next((i for i, token in enumerate(line, 1) if token in STOPS), 8) for line in theirs]
            assert ids_of(responses) == [tuple(line[:end]) for line, end in zip(theirs, ends, strict=True)]


def test_one_beam_is_greedy(policy, tokenizer) -> None:
    greedy = sample(policy, tokenizer, PROMPTS, temperature=0, max_new_tokens=10)
    assert beam_search(policy, tokenizer, PROMPTS, k=1, groups=1, max_new_tokens=10) == greedy
    assert beam_search(policy, tokenizer, PROMPTS, k=1, groups=1, max_new_tokens=10, temperature=0.5) == greedy


# Groups


def test_without_a_penalty_all_groups_are_alike(policy, tokenizer) -> None:
    found = beam_search(policy, tokenizer, PROMPTS, k=4, groups=4, diversity_penalty=0.0, max_new_tokens=10)
    assert found == sample(policy, tokenizer, PROMPTS, k=4, temperature=0, max_new_tokens=10)
    two = beam_search(policy, tokenizer, PROMPTS, k=4, groups=2, diversity_penalty=0.0, max_new_tokens=10)
    one = beam_search(policy, tokenizer, PROMPTS, k=2, groups=1, max_new_tokens=10)
    assert two == [[a, a, b, b] for a, b in one]


def test_a_large_penalty_parts_all_groups_at_every_step(policy, tokenizer) -> None:
    for responses in beam_search(policy, tokenizer, PROMPTS, k=6, groups=6, diversity_penalty=1e6, max_new_tokens=10):
        for step in range(10):
            taken = [response.ids[step] for response in responses if len(response.ids) > step]
            assert len(set(taken)) == len(taken)


def test_a_stop_token_counts_as_taken() -> None:
    """transformers counted what goes on instead: four groups could all answer with nothing but the stop token."""
    model, tokenizer = small(20, stops=(EOS,)), letters(18)
    hidden = model.model(torch.tensor([encode_prompt(TEXTS[0], tokenizer)])).last_hidden_state[0, -1].detach()
    model.lm_head.weight.data[EOS] = 30 * hidden / hidden.norm() ** 2
    [found] = beam_search(model, tokenizer, TEXTS[:1], k=4, diversity_penalty=100.0, max_new_tokens=5)
    assert sum(response.ids == [EOS] for response in found) == 1
    [found] = beam_search(model, tokenizer, TEXTS[:1], k=4, diversity_penalty=0.0, max_new_tokens=5)
    assert ids_of(found) == 4 * [(EOS,)]


def test_responses_are_in_the_order_of_their_own_log_probs(policy, tokenizer) -> None:
    """Without the penalties, by which late groups would always be last."""
    late = 0
    for responses in beam_search(policy, tokenizer, PROMPTS, k=6, groups=3, diversity_penalty=2.0, max_new_tokens=10):
        values = [sum(response.logps) / len(response.ids) for response in responses]
        assert values == sorted(values, reverse=True)
        [first] = beam_search(policy, tokenizer, [PROMPTS[0]], k=2, groups=1, max_new_tokens=10)
        late += ids_of(responses)[:2] != ids_of(first)
    assert late


# What a response depends on


@pytest.mark.parametrize("settings", [{}, {"k": 6, "groups": 2, "temperature": 0.8}, {"k": 3, "groups": 1}], ids=str)
def test_neither_the_batch_nor_the_order_matters(policy, tokenizer, settings: dict[str, Any]) -> None:
    def search(prompts: list[Any], batch_size: int = 128) -> list[list[Sample]]:
        return beam_search(policy, tokenizer, prompts, max_new_tokens=10, batch_size=batch_size, **settings)

    together = search(PROMPTS)
    assert search(PROMPTS) == together
    assert search(PROMPTS, 1) == together and search(PROMPTS, 13) == together
    assert search(PROMPTS[::-1]) == together[::-1] and search(PROMPTS[1:3]) == together[1:3]
    assert search([PROMPTS[0], PROMPTS[0]]) == [together[0], together[0]]


def test_no_random_number_is_used(policy, tokenizer) -> None:
    before = torch.get_rng_state()
    beam_search(policy, tokenizer, PROMPTS[:1], max_new_tokens=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_log_probs_are_the_policys_own(policy, tokenizer) -> None:
    found = beam_search(policy, tokenizer, PROMPTS, k=4, groups=2, temperature=0.6, max_new_tokens=8)
    for prompt, responses in zip(PROMPTS, found, strict=True):
        for response in responses:
            assert response.prompt_ids == encode_prompt(prompt, tokenizer)
            with torch.no_grad():
                logits = policy(torch.tensor([response.prompt_ids + response.ids])).logits[0]
            logps = logits.log_softmax(-1)[len(response.prompt_ids) - 1 : -1]
            expected = logps.gather(1, torch.tensor(response.ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(response.logps, dtype=torch.float64), expected)


def test_an_adapter_counts_and_the_policy_stays_as_it_was(policy, tokenizer) -> None:
    torch.manual_seed(5)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    answering = get_peft_model(copy.deepcopy(policy), config).to(torch.float64).train()
    answering.generation_config.num_beams = 7
    found = beam_search(answering, tokenizer, PROMPTS, max_new_tokens=6)
    assert answering.training and answering.generation_config.num_beams == 7
    assert found != beam_search(policy, tokenizer, PROMPTS, max_new_tokens=6)
    assert found == beam_search(answering.merge_and_unload().eval(), tokenizer, PROMPTS, max_new_tokens=6)


def test_half_precision_runs(policy, tokenizer) -> None:
    half = copy.deepcopy(policy).to(torch.bfloat16)
    for responses in beam_search(half, tokenizer, PROMPTS, k=4, groups=2, max_new_tokens=6):
        assert len(set(ids_of(responses))) > 2 and all(max(response.logps) <= 0 for response in responses)


# The end of a response


def test_stop_tokens_and_the_limit_end_a_response() -> None:
    model, tokenizer = small(20), letters(18)
    reasons: Counter[str] = Counter()
    for responses in beam_search(model, tokenizer, TEXTS, k=8, groups=4, max_new_tokens=6):
        for response in responses:
            reasons[response.finish_reason] += 1
            assert not {*STOPS} & set(response.ids[:-1])
            assert response.finished == (response.ids[-1] in {*STOPS})
            assert response.finished or len(response.ids) == 6
            assert len(response.logps) == len(response.ids) <= 6
            assert not {"c", "e", "h"} & set(response.text)
    assert reasons["stop"] and reasons["length"]


def test_a_stop_string_ends_a_response(policy, tokenizer) -> None:
    plain = beam_search(policy, tokenizer, PROMPTS, k=4, groups=2, max_new_tokens=10)
    letter = next(c for c in plain[0][0].text if c.strip())
    for strings in (letter, [letter, "never to be seen"]):
        found = beam_search(policy, tokenizer, PROMPTS, k=4, groups=2, max_new_tokens=10, stop_strings=strings)
        reasons = Counter(one.finish_reason for row in found for one in row)
        assert reasons["stop_string"] and reasons["length"] + reasons["stop"]
        for one in (one for row in found for one in row):
            shown = tokenizer.decode(one.ids, skip_special_tokens=True)
            assert letter not in one.text
            assert (letter in shown) == (one.finish_reason == "stop_string")
            assert letter not in tokenizer.decode(one.ids[:-1], skip_special_tokens=True)


def test_many_candidates_that_end_leave_others_to_go_on() -> None:
    """Nearly every letter is a stop string, so that the beams that go on stand far down the list."""
    for seed in range(3):
        model, tokenizer = small(20, seed, stops=(EOS,)), letters(18)
        plain = Plain(model, encode_prompt(TEXTS[0], tokenizer), stops=[EOS, *range(4, 20)])
        settings = {"max_new_tokens": 6, "stop_strings": list(LETTERS[2:18]), "length_penalty": 2.0}
        for k, groups in ((4, 1), (4, 2)):
            [found] = beam_search(model, tokenizer, TEXTS[:1], k=k, groups=groups, **settings)
            assert ids_of(found) == plain.search(k // groups, groups, 1.0, 6, 2.0)
            assert {*"".join(response.text for response in found)} <= {*"ab "}


def test_a_chinese_prompt_and_its_text(tokenizer) -> None:
    """A policy that recites what it learnt to follow on the last token of the prompt; other beams stray from it."""
    [prompt] = [[{"role": "user", "content": "日本的首都是哪里？"}]]
    text = "是东京。祝你愉快！"
    ids = [encode_prompt(prompt, tokenizer)[-1], *tokenizer(text, add_special_tokens=False).input_ids, EOS]
    model = tiny_llama(vocab=len(tokenizer), hidden_size=64, num_hidden_layers=1, dtype=torch.float64)
    layer = model.model.layers[0]
    with torch.no_grad():
        for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight, model.lm_head.weight):
            weight.zero_()
        for place, (token, following) in enumerate(zip(ids, ids[1:], strict=False)):
            model.model.embed_tokens.weight[token] = torch.eye(64)[place]
            model.lm_head.weight[following] += 100 * torch.eye(64)[place]
    [found] = beam_search(model, tokenizer, [prompt], k=3, groups=1, max_new_tokens=32)
    assert (found[0].text, found[0].finish_reason, found[0].ids) == (text, "stop", ids[1:])
    assert tokenizer.decode(found[0].prompt_ids) == "<user>日本的首都是哪里？<assistant>"
    [found] = beam_search(model, tokenizer, [prompt], k=4, max_new_tokens=32, stop_strings=["。"])
    assert (found[0].text, found[0].finish_reason) == ("是东京", "stop_string")


def test_progress_counts_responses(policy, tokenizer, capsys) -> None:
    beam_search(policy, tokenizer, PROMPTS, max_new_tokens=4, progress=True)
    assert "20/20" in (shown := capsys.readouterr().err) and "tokens/s" in shown
    beam_search(policy, tokenizer, PROMPTS, max_new_tokens=4)
    assert capsys.readouterr().err == ""


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 6, "groups": 4}, "k=6 must be a multiple of groups=4"),
        ({"k": 2}, "k=2 must be a multiple of groups=4"),
        ({"groups": 0}, "groups=0"),
        ({"k": 0}, "k=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"diversity_penalty": -0.5}, "diversity_penalty=-0.5 must be a number from 0"),
        ({"diversity_penalty": float("inf")}, "diversity_penalty=inf"),
        ({"temperature": 0}, "temperature=0 must be positive.*groups=1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"length_penalty": float("nan")}, "length_penalty=nan"),
        ({"stop_strings": ["<assistant>"]}, "special token"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(policy, tokenizer, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        beam_search(policy, tokenizer, PROMPTS, **settings)


def test_prompts_that_do_not_fit_are_named(policy, tokenizer) -> None:
    long = [{"role": "user", "content": "好" * 240}]
    room = 256 - len(encode_prompt(long, tokenizer))
    [found] = beam_search(policy, tokenizer, [long], max_new_tokens=room)
    assert all(len(response.ids) == room or response.finished for response in found)
    with pytest.raises(ValueError, match=rf"prompt 1 has {256 - room} tokens.*max_new_tokens={room + 1}.*256"):
        beam_search(policy, tokenizer, [PROMPTS[0], long], max_new_tokens=room + 1)
    with pytest.raises(ValueError, match="prompt 1: .*system"):
        beam_search(policy, tokenizer, [PROMPTS[0], [{"role": "system", "content": "Be kind."}]])
    assert beam_search(policy, tokenizer, []) == []


def test_policies_that_cannot_be_searched_are_refused(policy, tokenizer) -> None:
    tuned = get_peft_model(copy.deepcopy(policy), PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="PROMPT_TUNING.*LoRA"):
        beam_search(tuned, tokenizer, PROMPTS)
    broken = copy.deepcopy(policy)
    broken.lm_head.weight.data[5] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        beam_search(broken, tokenizer, PROMPTS)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "pad_token_id": 0, "eos_token_id": EOS}
    with pytest.raises(ValueError, match="MambaForCausalLM has no cache.*`sample`"):
        beam_search(MambaForCausalLM(MambaConfig(vocab_size=len(tokenizer), **sizes)), tokenizer, PROMPTS)
    sharded = copy.deepcopy(policy)
    sharded.__class__ = type("FSDPLlama", (FSDPModule, LlamaForCausalLM), {})  # as torch makes it
    with pytest.raises(ValueError, match="sharded"):
        beam_search(sharded, tokenizer, PROMPTS)

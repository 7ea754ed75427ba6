"""The fast loop and `generate` are the same sampler, whatever the family, the batch and the order."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import transformers as hf
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft import LoraConfig, get_peft_model

from prefopt.batch import Batch
from prefopt.data.collate import collate
from prefopt.generation._compatibility import is_supported
from prefopt.generation._engine import decode
from prefopt.generation._token_sampling import Distribution
from prefopt.generation.sampling import generate_by_transformers, sample
from prefopt.generation.stopping import SequenceState, StoppingRules
from prefopt.models.forward import forward
from prefopt.models.wrappers import unwrap
from tests.helpers.models import COMMON, FAMILIES, VOCAB, tiny, tiny_llama

FALLS_BACK = ("bloom", "opt")
FAST = [family for family in FAMILIES if family not in FALLS_BACK]
EOS = 1
STOPS = (EOS, *range(40, 50))
"""Enough of them that responses end at different times."""
PLAIN, GREEDY = Distribution(), Distribution(temperature=0)
RNG = random.Random(0)
PROMPTS = [[RNG.randrange(3, VOCAB) for _ in range(length)] for length in (3, 9, 1, 5, 9, 2)]

Way = Callable[..., None]


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def run(
    way: Way,
    model: Any,
    distribution: Distribution = PLAIN,
    *,
    tokenizer: Any = None,
    prompts: list[list[int]] = PROMPTS,
    k: int = 3,
    limit: int = 10,
    batch_size: int = 64,
    order: list[int] | None = None,
    stops: tuple[int, ...] = (EOS,),
) -> dict[tuple[int, int], SequenceState]:
    sequences = [SequenceState(i, j, prompts[i], (0, i, j)) for i in order or range(len(prompts)) for j in range(k)]
    found: dict[tuple[int, int], SequenceState] = {}

    def done(ended: list[SequenceState]) -> None:
        assert not found.keys() & {(row.prompt_number, row.response_number) for row in ended}
        found.update({(row.prompt_number, row.response_number): row for row in ended})

    way(model, sequences, distribution, StoppingRules(tokenizer, stops, limit), batch_size, done)
    assert len(found) == len(prompts) * k
    return found


def ids_of(found: dict[tuple[int, int], SequenceState]) -> dict[tuple[int, int], list[int]]:
    return {key: row.ids for key, row in found.items()}


def logps_of(found: dict[tuple[int, int], SequenceState]) -> torch.Tensor:
    return torch.tensor([logp for key in sorted(found) for logp in found[key].logps], dtype=torch.float64)


# Equal to transformers


@pytest.mark.parametrize("family", FAST)
def test_greedy_is_what_generate_gives_for_each_prompt_alone(family: str) -> None:
    model = tiny(family)
    assert is_supported(model)
    found = run(decode, model, GREEDY, k=2, limit=12)
    for number, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        [whole] = model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=12, eos_token_id=EOS
        ).tolist()
        assert found[number, 0].ids == found[number, 1].ids == whole[len(prompt) :]


@pytest.mark.parametrize("family", FAST)
def test_samples_are_those_of_generate(family: str) -> None:
    """The same numbers draw the same tokens; generate rounds the logits to float32."""
    # transformers' eager attention, which soft caps need, masks with float64's least number and rounds it to float32's
    # minus infinity: rows with padding are NaN.
    model = tiny(family, torch.float32 if family == "gemma2" else torch.float64)
    fast, slow = run(decode, model), run(generate_by_transformers, model)
    assert ids_of(fast) == ids_of(slow)
    assert [row.finish_reason for _, row in sorted(fast.items())] == [
        row.finish_reason for _, row in sorted(slow.items())
    ]
    torch.testing.assert_close(logps_of(fast), logps_of(slow), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", [decode, generate_by_transformers])
def test_a_penalty_is_that_of_transformers(way: Way) -> None:
    model = tiny("llama")
    found = run(way, model, Distribution(temperature=0, repetition_penalty=1.4), k=1, limit=12)
    for number, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        settings = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": EOS, "repetition_penalty": 1.4}
        [whole] = model.generate(ids, attention_mask=torch.ones_like(ids), **settings).tolist()
        assert found[number, 0].ids == whole[len(prompt) :]


# Batches and order change nothing


@pytest.mark.parametrize("way", [decode, generate_by_transformers])
@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9, "temperature": 1.3, "repetition_penalty": 1.2}], ids=str)
def test_neither_the_batch_nor_the_order_matters(way: Way, settings: dict[str, Any]) -> None:
    model = tiny("gemma3")
    expected = ids_of(run(way, model, Distribution(**settings), stops=STOPS))
    assert len({len(ids) for ids in expected.values()}) > 3  # rows end at different times
    for batch_size, order in [(1, None), (2, [5, 4, 3, 2, 1, 0]), (7, [2, 0, 4, 1, 5, 3]), (18, [1, 4, 3, 0, 5, 2])]:
        found = run(way, model, Distribution(**settings), batch_size=batch_size, order=order, stops=STOPS)
        assert ids_of(found) == expected


def test_log_probs_are_those_of_forward() -> None:
    """Also where something else is sampled from."""
    model = tiny("qwen3")
    for distribution in (PLAIN, GREEDY, Distribution(top_k=5, temperature=2.0, repetition_penalty=1.5)):
        found = run(decode, model, distribution)
        rows = [
            {"prompt_ids": prompt, "response_ids": [found[i, j].ids for j in range(3)]}
            for i, prompt in enumerate(PROMPTS)
        ]
        batch = Batch(collate(rows))
        logps = forward(model, batch, frozenset({"logps"})).required("logps")
        torch.testing.assert_close(logps_of(found), logps[batch.response_mask], atol=1e-9, rtol=1e-9)


def test_half_precision_runs_and_its_log_probs_are_close() -> None:
    model = tiny("llama", torch.bfloat16)
    assert is_supported(model)
    found = run(decode, model)
    wide = copy.deepcopy(model).double()
    rows = [{"prompt_ids": p, "response_ids": [found[i, j].ids for j in range(3)]} for i, p in enumerate(PROMPTS)]
    batch = Batch(collate(rows))
    logps = forward(wide, batch, frozenset({"logps"})).required("logps")[batch.response_mask]
    assert float((logps_of(found) - logps).abs().mean()) < 0.1


# The least work


def test_a_prompt_is_computed_once_and_a_finished_row_no_more() -> None:
    model, fed = tiny("llama"), []
    handle = model.model.embed_tokens.register_forward_hook(lambda _, ids, __: fed.append(ids[0].numel()))
    found = run(decode, model, batch_size=6)
    handle.remove()
    # The token that ends a response is not fed.
    assert sum(fed) == sum(map(len, PROMPTS)) + sum(len(row.ids) - 1 for row in found.values())


def test_other_prompts_take_the_place_of_finished_rows() -> None:
    model, sizes = tiny("llama"), []
    handle = model.model.embed_tokens.register_forward_hook(lambda _, ids, __: sizes.append(ids[0].numel()))
    found = run(decode, model, prompts=[[5, 6]] * 40, k=1, batch_size=8, limit=30, stops=STOPS)
    handle.remove()
    alone = sum(max(len(found[i, 0].ids) for i in range(start, start + 8)) for start in range(0, 40, 8))
    assert max(sizes) <= 16 and len(sizes) < alone


def test_long_responses_outgrow_the_room_that_they_start_with() -> None:
    model = tiny("mistral")
    fast, slow = (run(way, model, k=2, limit=50, stops=(VOCAB + 1,)) for way in (decode, generate_by_transformers))
    assert ids_of(fast) == ids_of(slow)
    assert {len(row.ids) for row in fast.values()} == {50} and {row.finish_reason for row in fast.values()} == {
        "length"
    }


def test_long_prompts_are_computed_in_parts() -> None:
    model = tiny("llama")
    assert ids_of(run(partial(decode, prefill=6), model)) == ids_of(run(decode, model))


# Ends


@pytest.mark.parametrize("way", [decode, generate_by_transformers])
def test_one_token(way: Way) -> None:
    found = run(way, tiny("llama"), limit=1)
    assert {len(row.ids) for row in found.values()} == {1}
    assert all(row.finish_reason == ("stop" if row.ids == [EOS] else "length") for row in found.values())


@pytest.mark.parametrize("way", [decode, generate_by_transformers])
def test_a_response_may_stop_at_its_first_token(way: Way) -> None:
    model = tiny("llama")
    first = run(way, model, GREEDY, k=1, limit=1)[0, 0].ids[0]
    found = run(way, model, GREEDY, prompts=PROMPTS[:1], k=2, stops=(first, 60))
    assert [(row.ids, row.finish_reason) for row in found.values()] == [([first], "stop")] * 2


# Models that the fast loop does not support

OTHERS: dict[str, dict[str, Any]] = {
    "Lfm2": {"layer_types": ["conv", "full_attention"]},
    "RecurrentGemma": {"lru_width": 32, "attention_window_size": 16},
    "FalconH1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8},
    "GptOss": {"num_local_experts": 4, "num_experts_per_tok": 2},
}


def other(name: str, dtype: torch.dtype) -> Any:
    if name in FAMILIES:
        return tiny(name, dtype)
    torch.manual_seed(0)
    config = getattr(hf, f"{name}Config")(**COMMON | OTHERS[name])
    return getattr(hf, f"{name}ForCausalLM")(config).to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*OTHERS, *FALLS_BACK])
def test_other_models_are_recognised_and_named(name: str, dtype: torch.dtype, caplog) -> None:
    model = other(name, dtype)
    with caplog.at_level(logging.INFO, "prefopt.generation"):
        assert not is_supported(model) and not is_supported(model)
    (said,) = (record.message for record in caplog.records if record.name.startswith("prefopt"))
    assert "is sampled by generate, which is slower: in the fast loop" in said and "\n" not in said


@pytest.mark.parametrize("name", ["Lfm2", "bloom"])
def test_other_models_are_sampled_all_the_same(name: str) -> None:
    """The same rows from a loop that computes all of each sequence every time."""
    model = other(name, torch.float32 if name == "bloom" else torch.float64)  # as gemma2 above
    found = run(generate_by_transformers, model, k=2, limit=6)
    assert ids_of(run(generate_by_transformers, model, k=2, limit=6, batch_size=1)) == ids_of(found)
    for (i, _), row in found.items():
        logits = model(torch.tensor([PROMPTS[i] + row.ids])).logits[0, len(PROMPTS[i]) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(row.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(row.logps).double(), expected.double(), atol=1e-5, rtol=1e-5)


def test_logits_that_are_no_numbers_are_an_error() -> None:
    model = tiny("llama")
    model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="not numbers"):
        run(decode, model)


# The model stays as it was


class Stopped(Exception):
    """What a failing policy raises."""


@pytest.mark.parametrize("after", [0, 4, None])
def test_the_attention_setting_is_restored(after: int | None) -> None:
    model = tiny("gemma3")
    before = (model.config._attn_implementation, model.config.to_json_string(), model.training)
    assert is_supported(model)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if after is not None and calls > after:
            raise Stopped

    handle = model.model.layers[0].register_forward_pre_hook(count)
    if after is None:
        run(decode, model)
    else:
        with pytest.raises(Stopped):
            run(decode, model)
    handle.remove()
    assert (model.config._attn_implementation, model.config.to_json_string(), model.training) == before
    assert ids_of(run(generate_by_transformers, model)) == ids_of(run(decode, model))


def test_an_adapter_is_supported_and_changes_the_samples() -> None:
    base = tiny("llama")
    plain = ids_of(run(decode, base))
    policy = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    policy = policy.double().eval()
    assert is_supported(unwrap(policy))
    assert ids_of(run(decode, unwrap(policy))) == ids_of(run(generate_by_transformers, policy)) != plain


def test_a_policy_that_trained_in_mixed_precision_is_decoded_in_its_own(tokenizer: Any) -> None:
    """accelerate leaves an autocast around the forward of a model it trained; the loop runs below it."""
    model = tiny_llama(dtype=torch.float32)
    ask = [[{"role": "user", "content": "Hello"}]]
    expected = sample(model, tokenizer, ask, k=3, max_new_tokens=12)
    AcceleratorState._reset_state()  # which another test of this process may have set otherwise
    wrapped = Accelerator(mixed_precision="bf16", cpu=True).prepare_model(copy.deepcopy(model))
    AcceleratorState._reset_state()
    assert "_original_forward" in vars(wrapped)
    assert sample(wrapped, tokenizer, ask, k=3, max_new_tokens=12) == expected
    assert is_supported(unwrap(wrapped))

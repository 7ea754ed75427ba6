"""Every family is sampled as transformers samples one prompt at a time, by the fast loop or by what is said instead."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers as hf
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from prefopt.generation import _compatibility, sampling
from prefopt.generation._token_sampling import Distribution
from prefopt.generation.stopping import SequenceState, StoppingRules
from tests.helpers.families import ON_PADDED_ROWS, TEXT, WITH_IMAGES, tiny_family
from tests.helpers.models import COMMON, VOCAB

EOS = 1
RNG = random.Random(0)
PROMPTS = [[RNG.randrange(3, VOCAB) for _ in range(length)] for length in (3, 9, 1, 5, 9, 2)]
EXACT = {"NemotronH": 1e-3, "Zamba2": 1e-3}
"""Where transformers 5.23 is less exact itself one token at a time: a time step is not clamped then."""
FASTER = {"Rwkv": "without a cache", "RecurrentGemma": "on prompts of one length at a time"}
"""What is said of models that left padding, or their own cache, would change."""


def generated(
    model: Any, distribution: Distribution, k: int, batch_size: int = 64
) -> dict[tuple[int, int], SequenceState]:
    rows = [SequenceState(i, j, prompt, (0, i, j)) for i, prompt in enumerate(PROMPTS) for j in range(k)]
    rules = StoppingRules(None, (EOS,), 10)  # type: ignore[arg-type]
    sampling._generate(model, rows, distribution, rules, batch_size, lambda _: None)
    return {(row.prompt_number, row.response_number): row for row in rows}


@pytest.mark.parametrize("name", [*TEXT, *WITH_IMAGES])
def test_greedy_is_what_generate_gives_for_each_prompt_alone(name: str) -> None:
    model = tiny_family(name)
    found = generated(model, Distribution(temperature=0), 1)
    for number, prompt in enumerate(PROMPTS):
        if name == "RecurrentGemma" and len(prompt) == 1:
            continue  # which transformers takes for the next token of what it generated last
        ids = torch.tensor([prompt])
        limits = {"do_sample": False, "max_new_tokens": 10, "eos_token_id": EOS, "pad_token_id": EOS}
        [whole] = model.generate(ids, attention_mask=torch.ones_like(ids), **limits).tolist()
        assert found[number, 0].ids == whole[len(prompt) :]


@pytest.mark.parametrize("name", [*TEXT, *WITH_IMAGES])
def test_log_probs_of_samples_are_those_of_the_whole_row(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither padding nor other rows reach a row; and the way that is slower is said."""
    model = tiny_family(name)
    with caplog.at_level(logging.WARNING, "prefopt.generation"):
        found = generated(model, Distribution(), 2)
    for (number, _), row in found.items():
        with torch.no_grad():
            logits = model(torch.tensor([PROMPTS[number] + row.ids]), use_cache=False).logits
        logps = logits[0, len(PROMPTS[number]) - 1 : -1].log_softmax(-1)
        expected = logps.gather(1, torch.tensor(row.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(row.logps), expected, rtol=0, atol=EXACT.get(name, 1e-4))
    said = [record.message for record in caplog.records if record.name.startswith("prefopt.generation")]
    assert len(said) == (name in ON_PADDED_ROWS) + (name in FASTER)
    assert all(type(model).__name__ in message for message in said)
    assert FASTER.get(name, "") in "".join(said)


@pytest.mark.parametrize("name", sorted(FASTER))
def test_neither_the_batch_nor_the_order_matters(name: str) -> None:
    model = tiny_family(name)
    expected = {key: row.ids for key, row in generated(model, Distribution(), 2).items()}
    assert {key: row.ids for key, row in generated(model, Distribution(), 2, batch_size=3).items()} == expected
    assert {key: row.ids for key, row in generated(copy.deepcopy(model), Distribution(), 2, 1).items()} == expected


class Cached(hf.LlamaForCausalLM):
    """A Llama whose cache is wrong: it forgets that there was anything before."""

    def forward(self, input_ids: Any = None, past_key_values: Any = None, **inputs: Any) -> Any:
        if input_ids.shape[1] == 1:
            return super().forward(input_ids=input_ids, use_cache=False)
        return super().forward(input_ids=input_ids, past_key_values=past_key_values, **inputs)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Cached(hf.LlamaConfig(**COMMON)), "without a cache, each row anew for each token"),
        (lambda: hf.BartForCausalLM(hf.BartConfig(**COMMON, d_model=32, decoder_layers=1)), "prompts of one length"),
        (lambda: hf.BertLMHeadModel(hf.BertConfig(**COMMON)), "not a causal language model"),
    ],
    ids=["wrong cache", "positions by column", "sees what follows"],
)
def test_the_way_is_found_by_trial(make: Any, said: str, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    torch.manual_seed(0)
    model = make().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    monkeypatch.setattr(sampling, "is_supported", lambda *_: False)
    generated(model, Distribution(), 1)
    assert [said in record.message for record in caplog.records if record.name == _compatibility.__name__] == [True]


@pytest.fixture
def process_group() -> Iterator[None]:
    """Of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("fast", [True, False])
def test_weights_that_processes_share_are_sampled(
    fast: bool, process_group: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the fast loop; or by generate, without a trial, as is said, which is right where left padding is."""
    if not fast:
        monkeypatch.setattr(sampling, "is_supported", lambda *_: False)
    plain, sharded = (tiny_family("SmolLM3") for _ in range(2))
    fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
    with caplog.at_level(logging.WARNING, "prefopt.generation"):
        found = generated(sharded, Distribution(), 2)
    assert ["is sampled without a trial" in record.message for record in caplog.records] == [True] * (not fast)
    for (number, _), row in found.items():
        with torch.no_grad():
            logits = plain(torch.tensor([PROMPTS[number] + row.ids]), use_cache=False).logits
        logps = logits[0, len(PROMPTS[number]) - 1 : -1].log_softmax(-1)
        expected = logps.gather(1, torch.tensor(row.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(row.logps), expected, rtol=0, atol=1e-4)

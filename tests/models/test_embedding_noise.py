"""NEFTune's noise and that of routers: in the policy while it trains, by each row's own length, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, MixtralConfig, MixtralForCausalLM
from transformers.integrations import activate_neftune

from prefopt import DPOConfig, DPOTrainer
from prefopt.batch import Batch
from prefopt.data.collate import collate
from prefopt.models import layout_selection
from prefopt.models.forward import forward
from prefopt.models.layout_selection import request_layout
from prefopt.models.reference import AdapterCopy, reference_for
from prefopt.models.wrappers import unwrap
from tests.helpers.models import tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

LOGPS = frozenset({"logps"})
ALPHA, WIDTH = 5.0, 32
LORA = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
PAIRS = ragged_pairs(6)


@torch.no_grad()
def by_hand(model: Any, row: dict[str, Any]) -> list[Tensor]:
    """The log-probs of a row's responses by plain transformers, one response at a time and without padding."""
    of_responses = []
    for response in row["response_ids"]:
        ids = torch.tensor([row["prompt_ids"] + response])
        logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        of_responses.append(logps[-len(response) :])
    return of_responses


def assert_plain(columns: Tensor, rows: Any, model: Any) -> None:
    for row, of_row in zip(rows, columns, strict=True):
        for expected, logps in zip(by_hand(model, row), of_row, strict=False):
            torch.testing.assert_close(logps[: len(expected)], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["auto", "padded"])
@pytest.mark.parametrize("copied", [False, True])
def test_the_reference_under_an_adapter_has_none(copied: bool, layout: str) -> None:
    model = get_peft_model(tiny_llama(), LORA)
    reference = reference_for(model, None, fresh_adapter=not copied)
    assert isinstance(reference, AdapterCopy) is copied
    activate_neftune(model, ALPHA)
    request_layout(unwrap(model), layout)
    model.train()
    batch = collate(list(PAIRS))
    before = torch.random.get_rng_state()
    logps = reference(model, batch, LOGPS).logps
    assert torch.equal(torch.random.get_rng_state(), before), "what it draws, a resumed run would not see drawn"
    assert_plain(logps, PAIRS, tiny_llama())
    noisy = forward(model, batch, LOGPS).logps
    assert (noisy - logps).abs().max() > 0.01  # the policy's own is there again
    model.eval()
    assert torch.equal(forward(model, batch, LOGPS).logps, logps)


def test_it_does_not_decide_about_the_layout() -> None:
    model = tiny_llama()
    activate_neftune(model, ALPHA)
    request_layout(model, "segments")  # which is an error where packed rows differ from padded ones
    forward(model.train(), collate(list(PAIRS)), LOGPS)
    assert layout_selection._selected[model].layout == "segments"


def test_a_dpo_run_with_noise_compares_with_the_plain_model(tmp_path: Path, tokenizer: Any) -> None:
    seen: list[Batch] = []
    args = DPOConfig(**quiet(tmp_path, max_steps=1, per_device_train_batch_size=6, neftune_noise_alpha=ALPHA))
    trainer = DPOTrainer(tiny_llama(), args=args, train_dataset=PAIRS, processing_class=tokenizer, peft_config=LORA)
    annotate = trainer.step.annotate
    trainer.step.annotate = lambda *given: seen.append(annotate(*given)) or seen[-1]  # type: ignore[func-returns-value, method-assign]
    trainer.train()
    (batch,) = seen
    assert_plain(batch.ref_logps, [PAIRS[number] for number in batch.index.tolist()], tiny_llama())
    assert abs(trainer.state.log_history[0]["loss"] - 0.6931) > 1e-4, "the policy has no noise"


@pytest.mark.parametrize("layout", ["padded", "segments"])
def test_a_rows_noise_does_not_depend_on_its_batch(layout: str) -> None:
    """Algorithm 1: uniform in +-alpha / sqrt(L d), with L the tokens of this row."""
    short = {"prompt_ids": [5, 6], "response_ids": [[7] * 6]}
    long = {"prompt_ids": [5] * 100, "response_ids": [[7] * 100]}
    model = tiny_llama()
    activate_neftune(model, ALPHA)
    request_layout(model, layout)
    inputs: list[Tensor] = []
    model.model.layers[0].register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    forward(model.train(), collate([short, long]), LOGPS)
    states = inputs[-1]
    rows = [states[0][:8], states[0][8:] if layout == "segments" else states[1]]
    plain = [model.model.embed_tokens.weight[row["prompt_ids"] + row["response_ids"][0]] for row in (short, long)]
    rows = [row - expected.detach() for row, expected in zip(rows, plain, strict=True)]
    assert [len(row) for row in rows] == [8, 200]
    for row in rows:
        bound = ALPHA / (len(row) * WIDTH) ** 0.5
        assert 0.95 * bound < row.abs().max() <= 1.001 * bound
        assert row.mean().abs() < 0.15 * bound
        assert row.std() == pytest.approx(bound / 3**0.5, rel=0.15)


def test_an_encoders_noise_goes_by_the_rows_own_length() -> None:
    rows = [{"prompt_ids": [5, 6], "response_ids": [[7] * 6]}, {"prompt_ids": [5] * 100, "response_ids": [[7] * 100]}]
    sizes: dict[str, Any] = {"vocab_size": 61, "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1}
    model = BertForSequenceClassification(BertConfig(**sizes, num_attention_heads=4, num_labels=1))
    activate_neftune(model, ALPHA)
    words = model.bert.embeddings.word_embeddings
    inputs: list[Tensor] = []
    model.bert.embeddings.LayerNorm.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    forward(model.train(), collate(rows), frozenset({"scores"}))
    for row, states in zip(rows, inputs[-1], strict=True):
        ids = torch.tensor(row["prompt_ids"] + row["response_ids"][0])  # type: ignore[operator]
        others = (
            model.bert.embeddings.position_embeddings.weight + model.bert.embeddings.token_type_embeddings.weight[0]
        )
        noise = states[: len(ids)] - (words.weight[ids] + others[: len(ids)]).detach()
        bound = ALPHA / (len(ids) * WIDTH) ** 0.5
        assert 0.95 * bound < noise.abs().max() <= 1.001 * bound


def test_routers_add_none_to_the_reference() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 1000, "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    config = MixtralConfig(**sizes, **heads, num_local_experts=4, router_jitter_noise=0.5)
    plain = MixtralForCausalLM(config).eval()
    model = get_peft_model(MixtralForCausalLM(config), LORA)
    model.get_base_model().load_state_dict(
        {name.replace("q_proj", "q_proj.base_layer"): weight for name, weight in plain.state_dict().items()},
        strict=False,
    )
    model.train()
    batch = collate(list(PAIRS))
    assert_plain(reference_for(model, None, fresh_adapter=True)(model, batch, LOGPS).logps, PAIRS, plain)
    assert (forward(model, batch, LOGPS).logps - forward(model, batch, LOGPS).logps).abs().max() > 0.01

"""Rows that are longer than the model's positions are refused or named before a run, and so are its frequencies."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    FalconConfig,
    FalconForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    MPNetConfig,
    RobertaConfig,
)

from prefopt import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer
from prefopt.data.batching import sequence_lengths
from prefopt.models import load_scorer
from prefopt.models.positions import has_table, position_limit
from prefopt.scoring.reward_model import RewardModelScorer
from tests.helpers.models import FAMILIES, tiny, tiny_llama
from tests.helpers.rope import make
from tests.helpers.training import quiet

TABLES = {"gpt2", "opt"}


def pairs(*lengths: tuple[int, int]) -> Dataset:
    """Rows of a prompt and two responses, the second of one token."""
    return Dataset.from_list(
        [{"prompt_ids": [5] * prompt, "response_ids": [[6] * response, [7]]} for prompt, response in lengths]
    )


def trainer(model: Any, rows: Any, tokenizer: Any, tmp_path: Path, **given: Any) -> DPOTrainer:
    args = DPOConfig(**quiet(tmp_path, max_steps=1, per_device_train_batch_size=4))
    return DPOTrainer(model, args=args, train_dataset=rows, processing_class=tokenizer, **given)


def test_lengths_are_of_prompt_and_longest_response() -> None:
    rows = [
        {"prompt_ids": [1] * p, "response_ids": [[1] * n for n in ns]} for p, ns in [(3, [1, 4]), (0, [2]), (5, [])]
    ]
    assert sequence_lengths(Dataset.from_list(rows * 600)) == [7, 2, 5] * 600


@pytest.mark.parametrize("family", FAMILIES)
def test_a_table_of_positions_is_told_from_frequencies(family: str) -> None:
    """By what the model does one token beyond them."""
    model = tiny(family)
    limit = position_limit(model)
    assert limit == (None if family == "bloom" else 64)
    assert has_table(model) is (family in TABLES)
    ids = torch.full((1, 65), 5)
    with torch.no_grad():
        if family in TABLES:
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=ids, position_ids=torch.arange(65)[None])
        else:
            assert model(input_ids=ids).logits.isfinite().all()


def test_positions_by_a_buffer_and_by_a_slope() -> None:
    sizes: dict[str, Any] = {"vocab_size": 61, "n_embd": 32, "n_layer": 1, "n_head": 4, "rotary_dim": 4}
    assert has_table(GPTJForCausalLM(GPTJConfig(**sizes, n_positions=48)))
    plain: dict[str, Any] = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    assert not has_table(FalconForCausalLM(FalconConfig(**plain, alibi=True)))


ENCODER: dict[str, Any] = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
ENCODER |= {"intermediate_size": 48, "max_position_embeddings": 64, "num_labels": 1}
BUCKETS: dict[str, Any] = {"relative_attention": True, "position_buckets": 32, "pos_att_type": ["c2p", "p2c"]}


@pytest.mark.parametrize(
    ("config", "limit", "table"),
    [
        (BertConfig(**ENCODER), 64, True),
        (RobertaConfig(**ENCODER, pad_token_id=1), 62, True),
        (MPNetConfig(**ENCODER, pad_token_id=1), 62, True),
        (DebertaV2Config(**ENCODER, **BUCKETS), 64, True),
        (DebertaV2Config(**ENCODER, **BUCKETS, position_biased_input=False), 64, False),
    ],
)
def test_an_encoders_positions_are_told_by_what_it_reads(config: Any, limit: int, table: bool) -> None:
    """RoBERTa and MPNet leave out the first places of their table, and DeBERTa-v3 has one of distances alone."""
    model = AutoModelForSequenceClassification.from_config(config).eval()
    assert (position_limit(model), has_table(model)) == (limit, table)
    with torch.no_grad():
        assert model(torch.full((1, limit), 5)).logits.isfinite().all()
        if table:
            with pytest.raises((IndexError, RuntimeError)):
                model(torch.full((1, limit + 1), 5))
        else:
            assert model(torch.full((1, limit + 100), 5)).logits.isfinite().all()


def test_an_encoder_refuses_rows_beyond_its_table_at_both_doors(tmp_path: Path, tokenizer: Any) -> None:
    rows, args = pairs((30, 32), (30, 33)), RewardConfig(**quiet(tmp_path))
    config = RobertaConfig(**ENCODER | {"vocab_size": 1000}, pad_token_id=1)
    model, tokenizer.pad_token_id = AutoModelForSequenceClassification.from_config(config), 1
    message = "1 of 2 rows have more tokens than the 62 positions of RobertaForSequenceClassification, the longest 63"
    with pytest.raises(ValueError, match=message):
        RewardTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
    scorer = RewardModelScorer(model.eval(), tokenizer)
    prompts, responses = ([row[name] for row in rows] for name in ("prompt_ids", "response_ids"))
    with pytest.raises(ValueError, match=message):
        scorer.score_ids(prompts, [ids[0] for ids in responses], tokenizer)


@pytest.mark.parametrize("family", sorted(TABLES))
def test_rows_beyond_a_table_are_refused(family: str, tmp_path: Path, tokenizer: Any) -> None:
    rows = pairs((30, 34), (30, 35), (60, 20), (60, 4))
    with pytest.raises(
        ValueError, match=r"2 of 4 rows have more tokens than the 64 positions of \w+, the longest 80.*--max_length 64"
    ):
        trainer(tiny(family, torch.float32), rows, tokenizer, tmp_path)
    trainer(tiny(family, torch.float32), pairs((30, 34), (60, 4)), tokenizer, tmp_path).train()


def test_evaluation_and_the_reference_count_too(tmp_path: Path, tokenizer: Any) -> None:
    short, long = pairs((30, 30)), pairs((50, 40))
    with pytest.raises(ValueError, match="1 of 1 rows have more tokens than the 64 positions of GPT2LMHeadModel"):
        trainer(tiny("gpt2", torch.float32), short, tokenizer, tmp_path, eval_dataset={"中文": long})
    policy = tiny_llama(vocab=61)
    with pytest.raises(ValueError, match="the 64 positions of GPT2LMHeadModel, the longest 90"):
        trainer(policy, long, tokenizer, tmp_path, ref_model=tiny("gpt2", torch.float32))


def test_rows_beyond_trained_frequencies_are_named(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "prefopt"):
        trainer(tiny_llama(), pairs((200, 56), (1, 2)), tokenizer, tmp_path)
        assert "positions" not in caplog.text
        trainer(tiny_llama(), pairs((200, 57), (1, 2)), tokenizer, tmp_path, peft_config=LoraConfig(r=2))
    assert (
        "1 of 2 rows have more tokens than the 256 positions of LlamaForCausalLM, the longest 257: it has not been "
        "trained on such rows. --max_length 256 truncates" in caplog.text
    )


def test_scaling_adds_positions() -> None:
    linear = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 32}
    assert position_limit(tiny_llama(rope_parameters=linear)) == 1024
    assert position_limit(tiny_llama(rope_parameters=yarn)) == 256
    assert position_limit(make("phi3, longrope")) == 200
    assert position_limit(make("gemma3, dynamic in one kind")) == 160


@pytest.mark.parametrize(("name", "how"), [("llama, dynamic", "slow"), ("phi3, longrope", "two parts")])
def test_frequencies_that_change_are_named_and_refused_where_weights_are_spread(
    name: str, how: str, tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    rows = pairs((10, 11), (1, 2))
    with caplog.at_level(logging.WARNING, "prefopt"):
        trainer(make(name).float(), rows, tokenizer, tmp_path).train()
    assert "1 of 2 rows have more than 20 tokens, where the rotary frequencies of" in caplog.text
    assert how in caplog.text
    assert caplog.text.count("rotary frequencies") == 1, "the reference is a copy of the policy"
    make_accelerator = DPOTrainer.create_accelerator_and_postprocess

    def spreading(self: Any) -> None:
        make_accelerator(self)
        self.is_fsdp_enabled = True

    monkeypatch.setattr(DPOTrainer, "create_accelerator_and_postprocess", spreading)
    with pytest.raises(ValueError, match="a row has 21 tokens, and beyond 20 .* --max_length 20"):
        trainer(make(name).float(), rows, tokenizer, tmp_path)
    trainer(make(name).float(), pairs((10, 10), (1, 2)), tokenizer, tmp_path)


def test_a_reward_model_refuses_texts_beyond_its_table(tokenizer: Any) -> None:
    model = tiny("gpt2", torch.float32, vocab_size=len(tokenizer))
    scorer = RewardModelScorer(load_scorer(model), tokenizer)
    turns = [[{"role": "user", "content": "你好" * 40}]]
    with pytest.raises(
        ValueError, match=r"1 of 1 rows have more tokens than the 64 positions.*Encoding\(max_length=64\)"
    ):
        scorer.score(turns, ["好"])
    assert len(scorer.score([[{"role": "user", "content": "Hi"}]], ["好"])) == 1

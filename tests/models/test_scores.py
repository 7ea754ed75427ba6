"""Scores are a property of the text: not of padding, batch mates or pad == eos, and the saved folder gives the same."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, LoraConfig, PeftModel
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from prefopt import RewardConfig, RewardTrainer
from prefopt.data.collate import collate
from prefopt.models.forward import forward
from prefopt.models.heads import LM_HEAD, normalize, reward_head_of
from prefopt.models.load import load_scorer
from tests.helpers.models import tiny, tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

ROWS = ragged_pairs(8, seed=2)
SCORES = frozenset({"scores"})
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


def tokenizer_with(tokenizer: Any, pad: str) -> Any:
    """A tokenizer whose pad token is, or is not, the end of a response."""
    own = copy.deepcopy(tokenizer)
    own.pad_token = {"pad == eos": own.eos_token, "pad != eos": "<pad>"}[pad]
    return own


def train(tmp_path: Path, model: Any, tokenizer: Any, peft_config: Any = None, **changes: Any) -> RewardTrainer:
    """Two steps of reward modelling, saved to tmp_path / "saved"."""
    steps = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    args = RewardConfig(**quiet(tmp_path, **steps | changes))
    trainer = RewardTrainer(
        model, args, train_dataset=ROWS, processing_class=tokenizer, peft_config=copy.deepcopy(peft_config)
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    return trainer


def own_scores(model: nn.Module, rows: Any = ROWS) -> Tensor:
    with torch.no_grad():
        return forward(model.eval(), collate(list(rows)), SCORES).scores.flatten()


def sequences(rows: Any = ROWS) -> list[list[int]]:
    return [row["prompt_ids"] + response for row in rows for response in row["response_ids"]]


def plain_scores(model: nn.Module, tokenizer: Any, side: str) -> Tensor:
    """What a user of plain transformers computes: one sequence at a time, or one padded batch."""
    ids = sequences()
    with torch.no_grad():
        if side == "single":
            return torch.stack([model(torch.tensor([row])).logits[0, 0] for row in ids])
        tokenizer.padding_side = side
        inputs = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        # GPT-2 counts positions from the first padding token unless it is told.
        positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        return model(**inputs, position_ids=positions).logits[:, 0]


def assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert expected.float().std() > 0.01, "scores that are all alike would show nothing"
    torch.testing.assert_close(found.float(), expected.float(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("pad", ["pad == eos", "pad != eos"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "qwen3"])
def test_plain_transformers_gives_the_same(family: str, pad: str, tmp_path: Path, tokenizer: Any) -> None:
    policy = tiny(family, torch.float32, vocab_size=1000)
    trainer = train(tmp_path, policy, tokenizer_with(tokenizer, pad))
    expected = own_scores(trainer.model)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert plain.config.num_labels == 1
    saved_tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert saved_tokenizer.pad_token_id == plain.config.pad_token_id != saved_tokenizer.eos_token_id
    for side in ("single", "left", "right"):
        assert_same(plain_scores(plain, saved_tokenizer, side), expected)
    again = load_scorer(str(tmp_path / "saved"), saved_tokenizer)
    assert_same(own_scores(again), expected)
    weights = again.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in trainer.model.state_dict().items())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", ["pad == eos", "pad != eos"])
def test_the_tokenizer_does_not_matter(side: str, pad: str, tmp_path: Path, tokenizer: Any) -> None:
    """Padding side and pad token of the tokenizer leave every score as it was, bit by bit."""
    model = load_scorer(tiny_llama())
    expected = own_scores(model)
    own = tokenizer_with(tokenizer, pad)
    own.padding_side = side
    trainer = RewardTrainer(model, RewardConfig(**quiet(tmp_path)), train_dataset=ROWS, processing_class=own)
    assert torch.equal(torch.tensor(trainer.predict(ROWS).predictions[1]).float().flatten(), expected)


def test_batch_mates_do_not_matter() -> None:
    model = load_scorer(tiny_llama(dtype=torch.float64))
    together = own_scores(model)
    alone = torch.cat([own_scores(model, [row]) for row in ROWS])
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-9)


def test_a_response_that_ends_without_eos_is_scored_at_its_last_token() -> None:
    model = load_scorer(tiny_llama(dtype=torch.float64))
    row = {"prompt_ids": [5, 6], "response_ids": [[7, 8, 9], [7, 8, 9, 1], [7, 1, 1, 1]]}
    scores = own_scores(model, [row])
    for score, response in zip(scores, row["response_ids"], strict=True):
        hidden = model.model(torch.tensor([row["prompt_ids"] + response])).last_hidden_state[0, -1]
        torch.testing.assert_close(score, model.score(hidden)[0], rtol=1e-9, atol=1e-9)
    assert len(set(scores.tolist())) == 3


def test_swapping_chosen_and_rejected_flips_every_margin(tmp_path: Path, tokenizer: Any) -> None:
    trainer = train(tmp_path, tiny_llama(), tokenizer)
    swapped = ROWS.map(lambda row: {"response_ids": row["response_ids"][::-1]})
    scores, other = (trainer.predict(rows).predictions[1] for rows in (ROWS, swapped))
    margins = scores[:, 0] - scores[:, 1]
    np.testing.assert_allclose(other[:, 0] - other[:, 1], -margins, rtol=1e-6)
    assert np.abs(margins).min() > 1e-3
    one, two = trainer.evaluate(ROWS), trainer.evaluate(swapped)
    assert two["eval_margin"] == pytest.approx(-one["eval_margin"], rel=1e-6)
    assert two["eval_accuracy"] == pytest.approx(1 - one["eval_accuracy"])


def saved_base(tmp_path: Path, tokenizer: Any, **changes: Any) -> str:
    tiny_llama(**changes).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.mark.parametrize("task", ["SEQ_CLS", "CAUSAL_LM", None])
def test_an_adapter_keeps_its_head(task: str | None, tmp_path: Path, tokenizer: Any) -> None:
    """Whatever task the peft_config names, the head trains, is saved with the adapter, and survives a merge."""
    trainer = train(tmp_path, saved_base(tmp_path, tokenizer), None, LoraConfig(task_type=task, **LORA))
    start = reward_head_of(trainer.model.get_base_model()).original_module.weight
    head = reward_head_of(trainer.model.get_base_model()).modules_to_save["default"].weight
    assert head.requires_grad and not torch.equal(head, start)
    expected = own_scores(trainer.model)
    again = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "saved", num_labels=1)
    assert_same(own_scores(again), expected)
    assert_same(own_scores(load_scorer(str(tmp_path / "saved"))), expected)
    again.merge_and_unload().save_pretrained(tmp_path / "merged")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert_same(plain_scores(plain, tokenizer, "single"), expected)


def test_an_adapter_goes_on_training_with_its_head(tmp_path: Path, tokenizer: Any) -> None:
    first = train(tmp_path, saved_base(tmp_path, tokenizer), None, LoraConfig(**LORA))
    trainer = train(tmp_path / "second", str(tmp_path / "saved"), None)
    assert isinstance(trainer.model, PeftModel)
    head = reward_head_of(trainer.model.get_base_model()).modules_to_save["default"].weight
    before = reward_head_of(first.model.get_base_model()).modules_to_save["default"].weight
    assert head.requires_grad and not torch.equal(head, before)
    assert_same(own_scores(load_scorer(str(tmp_path / "second" / "saved"))), own_scores(trainer.model))


def test_quantised_adapter_keeps_its_head(tmp_path: Path, tokenizer: Any) -> None:
    from transformers import BitsAndBytesConfig

    path = saved_base(tmp_path, tokenizer, hidden_size=64, intermediate_size=128)
    args = RewardConfig(**quiet(tmp_path, max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2))
    quantised = BitsAndBytesConfig(load_in_4bit=True)
    trainer = RewardTrainer(
        path, args, train_dataset=ROWS, quantization_config=quantised, peft_config=LoraConfig(**LORA)
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    head = reward_head_of(trainer.model.get_base_model()).modules_to_save["default"].weight
    assert head.dtype == torch.float32 and head.requires_grad
    again = load_scorer(str(tmp_path / "saved"), quantization_config=quantised)
    assert_same(own_scores(again), own_scores(trainer.model), 1e-4)


@pytest.mark.parametrize("lora", [False, True])
def test_a_bfloat16_backbone_keeps_a_float32_head(lora: bool, tmp_path: Path, tokenizer: Any) -> None:
    path = saved_base(tmp_path, tokenizer)
    trainer = train(tmp_path, path, None, LoraConfig(**LORA) if lora else None, model_init_kwargs={"dtype": "bfloat16"})

    def heads(model: Any) -> Tensor:
        inner = model.get_base_model() if lora else model
        head = reward_head_of(inner).modules_to_save["default"] if lora else reward_head_of(inner)
        return head.weight

    assert trainer.model.dtype == torch.bfloat16
    assert heads(trainer.model).dtype == torch.float32
    file = tmp_path / "saved" / ("adapter_model.safetensors" if lora else "model.safetensors")
    with safe_open(file, framework="pt") as weights:
        (name,) = [name for name in weights.keys() if "score" in name]  # noqa: SIM118
        assert weights.get_tensor(name).dtype == torch.float32
    again = load_scorer(str(tmp_path / "saved"), dtype="bfloat16")
    assert again.dtype == torch.bfloat16
    assert torch.equal(heads(again), heads(trainer.model)) and heads(again).dtype == torch.float32
    assert torch.equal(own_scores(again), own_scores(trainer.model))
    assert len(set(own_scores(again).tolist())) == 2 * len(ROWS)


@pytest.mark.parametrize("lora", [False, True])
def test_normalization_is_stored_with_the_model(lora: bool, tmp_path: Path, tokenizer: Any) -> None:
    path = saved_base(tmp_path, tokenizer)
    trainer = train(tmp_path, path, None, LoraConfig(**LORA) if lora else None, normalize_scores=True)
    raw = own_scores(trainer.model)
    again = load_scorer(str(tmp_path / "saved"))
    assert again.config.score_mean == pytest.approx(raw.mean().item(), rel=1e-4)
    assert again.config.score_std == pytest.approx(raw.std(correction=0).item(), rel=1e-4)
    normal = normalize(again, raw)
    assert normal.mean().item() == pytest.approx(0, abs=1e-4)
    assert normal.std(correction=0).item() == pytest.approx(1, rel=1e-4)


def test_without_normalization_scores_stay_as_they_are(tmp_path: Path, tokenizer: Any) -> None:
    trainer = train(tmp_path, tiny_llama(), tokenizer)
    assert torch.equal(normalize(trainer.model, own_scores(trainer.model)), own_scores(trainer.model))
    assert "score_mean" not in json.loads((tmp_path / "saved" / "config.json").read_text())


# ---- the auxiliary language-model head -----------------------------------------------------------------------------


def keys(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        return set(weights.keys())


@pytest.mark.parametrize("tied", [False, True])
def test_auxiliary_head_trains_and_stays_out_of_the_saved_model(tied: bool, tmp_path: Path, tokenizer: Any) -> None:
    policy = tiny_llama(tie_word_embeddings=tied)
    start = policy.lm_head.weight.detach().clone()
    trainer = train(tmp_path, policy, tokenizer, lm_coefficient=0.5, save_strategy="steps", save_steps=1)
    head = getattr(trainer.model, LM_HEAD).weight
    assert not torch.equal(head, start)
    assert (head is trainer.model.get_input_embeddings().weight) == tied
    expected = {name for name, _ in trainer.model.named_parameters() if LM_HEAD not in name}
    trainer.model.save_pretrained(tmp_path / "by hand")
    for folder in ("saved", "by hand", "run/checkpoint-2"):
        assert keys(tmp_path / folder) == expected
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert_same(plain_scores(plain, tokenizer, "single"), own_scores(trainer.model))


@pytest.mark.parametrize("tied", [False, True])
def test_auxiliary_head_survives_a_resume(tied: bool, tmp_path: Path, tokenizer: Any) -> None:
    def build(folder: str) -> RewardTrainer:
        steps = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "lm_coefficient": 0.5}
        args = RewardConfig(**quiet(tmp_path / folder, **steps, save_strategy="steps", save_steps=2))
        model = tiny_llama(tie_word_embeddings=tied)
        return RewardTrainer(model, args, train_dataset=ROWS, processing_class=tokenizer)

    whole, resumed = build("whole"), build("resumed")
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "run" / "checkpoint-2"))
    assert LM_HEAD in "".join(name for name, _ in resumed.model.named_modules())
    for name, tensor in resumed.model.state_dict().items():
        assert torch.equal(tensor, whole.model.state_dict()[name]), name


def test_auxiliary_head_under_an_adapter_on_every_layer(tmp_path: Path, tokenizer: Any) -> None:
    """The head gives the adapter its gradient, and nothing of it is in the adapter's folder."""
    trainer = train(
        tmp_path,
        saved_base(tmp_path, tokenizer),
        None,
        LoraConfig(r=4, target_modules="all-linear"),
        lm_coefficient=0.5,
    )
    assert hasattr(trainer.model.get_base_model(), LM_HEAD)
    with safe_open(tmp_path / "saved" / "adapter_model.safetensors", framework="pt") as weights:
        names = set(weights.keys())
    assert not any(LM_HEAD in name for name in names) and any("q_proj" in name for name in names)
    assert_same(own_scores(load_scorer(str(tmp_path / "saved"))), own_scores(trainer.model))


def test_no_auxiliary_head_without_its_loss(tmp_path: Path, tokenizer: Any) -> None:
    trainer = train(tmp_path, saved_base(tmp_path, tokenizer), None, lm_coefficient=0.0)
    assert not any(LM_HEAD in name for name, _ in trainer.model.named_modules())


def test_auxiliary_head_from_a_folder_equals_the_policys(tmp_path: Path, tokenizer: Any) -> None:
    path = saved_base(tmp_path, tokenizer)
    scorer = load_scorer(path, lm_head=True)
    assert torch.equal(getattr(scorer, LM_HEAD).weight, tiny_llama().lm_head.weight)


def test_auxiliary_head_needs_a_language_model(tmp_path: Path, tokenizer: Any) -> None:
    """A classification folder has no such head: a random one would train without a word."""
    train(tmp_path, tiny_llama(), tokenizer)
    for source in (str(tmp_path / "saved"), load_scorer(tiny_llama())):
        with pytest.raises(ValueError, match="language-model head"):
            load_scorer(source, lm_head=True)

"""What a folder of a trained model says of where it comes from, and what a user is told to do with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import LoraConfig
from transformers import PreTrainedTokenizerFast

from prefopt import (
    DPOConfig,
    DPOTrainer,
    PPOConfig,
    PPOTrainer,
    PreferenceConfig,
    PreferenceTrainer,
    RewardConfig,
    RewardTrainer,
)
from prefopt.testbed import preference_rows, write_jsonl
from prefopt.training.card import MARK, card_of, is_hub_id
from prefopt.training.lineage import FILE, name_of_rows, read_record
from tests.helpers.models import untrained

SECRET = "hf_abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def place(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model, and rows of it in English and Chinese."""
    monkeypatch.chdir(tmp_path)
    untrained(tokenizer).save_pretrained("model")
    tokenizer.save_pretrained("model")
    write_jsonl(tmp_path / "pairs.jsonl", preference_rows(8, 0))
    return tmp_path


def trained(kind: Any = DPOTrainer, config: Any = DPOConfig, rows: Any = "pairs.jsonl", **more: Any) -> Any:
    settings = {"max_steps": 2, "bf16": False, "use_cpu": True, "disable_tqdm": True, "hub_token": SECRET}
    trainer = kind("model", args=config("out", **settings), train_dataset=rows, **more)
    trainer.train()
    trainer.save_model()
    return trainer


def test_a_folder_says_what_made_it(place: Path) -> None:
    trained()
    record = read_record(place / "out")
    assert (record["method"], record["command"], record["model"]) == ("DPO", "dpo", "policy")
    assert (record["base_model"], record["data"], record["rows"], record["steps"]) == ("model", "pairs.jsonl", 8, 2)
    assert record["arguments"] == {"max_steps": 2, "use_cpu": True}
    assert record["versions"].keys() >= {"python", "torch", "transformers", "prefopt"}
    assert set(record["metrics"]) == {"last_steps", "training"}
    texts = [path.read_text() for path in (place / "out").rglob("*") if path.name in (FILE, "README.md")]
    assert len(texts) == 4, "beside the model, and in its checkpoint"
    for text in texts:
        assert SECRET not in text and str(place) not in text


@pytest.mark.parametrize("adapted", [False, True])
def test_a_card_is_one_that_the_hub_reads(adapted: bool, place: Path) -> None:
    trained(peft_config=LoraConfig(r=2) if adapted else None)
    card = ModelCard.load(place / "out/README.md")
    assert card.data.to_dict()["library_name"] == ("peft" if adapted else "transformers")
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.tags == ["prefopt", "dpo", *(["lora"] if adapted else [])]
    assert card.data.base_model is None and card.data.datasets is None, "folders of this machine are no hub ids"
    assert card.text.lstrip().startswith("# DPO of model") and "More Information Needed" not in card.text
    assert (
        f"| rewards/accuracies | {read_record(place / 'out')['metrics']['last_steps']['rewards/accuracies']:.4g} |"
        in (card.text)
    )
    assert ("prefopt merge" in card.text) == adapted
    assert ModelCard.load(place / "out/checkpoint-2/README.md").data.tags == card.data.tags


def test_names_of_the_hub_stand_in_the_header(place: Path) -> None:
    trained()
    record = read_record(place / "out") | {"base_model": "owner/a-model", "data": "owner/rows_zh"}
    (place / "README.md").write_text(card_of(record))
    header = ModelCard.load(place / "README.md").data
    assert (header.base_model, header.datasets) == ("owner/a-model", ["owner/rows_zh"])
    (place / "owner").mkdir()
    (place / "owner/a-model").mkdir()
    assert not is_hub_id("owner/a-model") and not is_hub_id("./owner/x") and not is_hub_id(None)
    assert is_hub_id("owner/rows_zh")


def test_a_card_that_a_user_has_edited_stays(place: Path) -> None:
    trainer = trained()
    card = place / "out/README.md"
    card.write_text(card.read_text().replace(MARK, "").replace("# DPO of model", "# 我的模型"))
    trainer.save_model()
    assert "# 我的模型" in card.read_text()
    trainer.create_model_card(model_name="x")  # as pushing to the hub does
    assert "# 我的模型" in card.read_text()


def test_what_is_measured_later_comes_into_the_card(place: Path) -> None:
    trainer = trained(eval_dataset="pairs.jsonl")
    assert "held_out" not in read_record(place / "out")["metrics"]
    measured = trainer.evaluate()
    trainer.save_metrics("eval", measured)
    assert read_record(place / "out")["metrics"]["held_out"]["loss"] == measured["eval_loss"]


def test_policy_and_critic_are_described_apart(place: Path) -> None:
    settings = {
        "max_new_tokens": 4,
        "num_mini_batches": 1,
        "critic_pretrain_steps": 0,
        "warmup_steps": 0,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
    }
    args = PPOConfig("out", bf16=False, use_cpu=True, disable_tqdm=True, **settings)
    trainer = PPOTrainer("model", args, train_dataset="pairs.jsonl", scorer=lengths)
    trainer.train()
    trainer.save_model()
    policy, critic = (read_record(place / "out" / part) for part in ("policy", "critic"))
    assert (policy["model"], critic["model"], policy["scorer"]) == ("policy", "critic", "lengths")
    assert ModelCard.load(place / "out/critic/README.md").data.pipeline_tag == "text-classification"
    assert 'from_pretrained("out/policy")' in trainer.summary()


def lengths(prompts: list, responses: list[str]) -> list[float]:
    return [float(len(text)) for text in responses]


def test_rows_without_a_name_are_said_to_be_passed_in_python(place: Path) -> None:
    rows = Dataset.from_list(preference_rows(4, 0))
    trainer = PreferenceTrainer(
        "model", "simpo", PreferenceConfig("out", max_steps=1, bf16=False, use_cpu=True), train_dataset=rows
    )
    trainer.train()
    trainer.save_model()
    record = read_record(place / "out")
    assert (record["data"], record["method"], record["command"]) == ("rows passed in Python", "DPO", None)
    rows.info.download_checksums = {"hf://datasets/Anthropic/hh-rlhf@09be8c5/train.jsonl.gz": {}}
    assert name_of_rows(rows) == "Anthropic/hh-rlhf" and name_of_rows(None) is None


def test_the_summary_says_what_to_do_now(place: Path) -> None:
    trainer = trained(RewardTrainer, RewardConfig)
    said = trainer.summary()
    assert re.search(r"\n  accuracy +[\d.]+ in the last steps logged\n", said)
    assert 'prefopt.scoring.scorer_from("out")' in said and "prefopt evaluate out --data HELD_OUT_ROWS" in said
    assert "--resume_from_checkpoint true --max_steps 4 --resume_with_changes max_steps" in said


def test_the_summary_of_what_was_not_saved_says_so(place: Path) -> None:
    args = DPOConfig("out", max_steps=1, bf16=False, use_cpu=True, disable_tqdm=True, save_strategy="no")
    trainer = DPOTrainer("model", args=args, train_dataset="pairs.jsonl", peft_config=LoraConfig(r=2))
    trainer.train()
    assert "trainer.save_model()" in trainer.summary()
    trainer.save_model()
    assert "prefopt merge out --output_dir out-merged" in trainer.summary()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    assert read_record(tmp_path) == {}
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ValueError, match=f"{FILE}: not JSON"):
        read_record(tmp_path)
    (tmp_path / FILE).write_text(json.dumps({"format": 1}))
    assert read_record(tmp_path) == {"format": 1}

"""A folder belongs to one run: what another run leaves there is never gone on with, and what may change is said."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from transformers import TrainingArguments

from prefopt import PreferenceConfig, PreferenceTrainer
from prefopt.objectives.dpo import DPO
from prefopt.testbed.model import build_tokenizer
from prefopt.training import checkpoint
from prefopt.training.content import FREE, rows_hash, settings_of
from prefopt.training.identity import Comparison
from prefopt.utils.hashing import sealed
from tests.helpers.checkpoints import BASE, ROWS, assert_equal, build, saved, weights
from tests.helpers.models import tiny_llama
from tests.helpers.training import quiet

Make = Callable[[Path], PreferenceTrainer]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    build(folder).train()
    return folder / "run"


def on_rows(folder: Path, rows: Any, **more: Any) -> PreferenceTrainer:
    config = PreferenceConfig(**quiet(folder, **BASE))
    return PreferenceTrainer(tiny_llama(), DPO(), config, rows, None, build_tokenizer(), **more)


def changed(change: Callable[[Any], dict[str, Any]]) -> Dataset:
    return Dataset.from_list([{**row, **change(row)} for row in ROWS])


def swapped(folder: Path) -> PreferenceTrainer:
    return on_rows(folder, changed(lambda row: {"response_ids": row["response_ids"][::-1]}))


def other_template(folder: Path) -> PreferenceTrainer:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }}{% endfor %}"
    return PreferenceTrainer(tiny_llama(), DPO(), PreferenceConfig(**quiet(folder, **BASE)), ROWS, None, tokenizer)


def one_number_else(seed: int = 0) -> Any:
    model = tiny_llama(seed=seed)
    with torch.no_grad():
        model.model.embed_tokens.weight[3, 5] += 1e-3
    return model


def other_vocabulary(folder: Path) -> PreferenceTrainer:
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["巴黎"])
    return PreferenceTrainer(tiny_llama(), DPO(), PreferenceConfig(**quiet(folder, **BASE)), ROWS, None, tokenizer)


OTHERS: dict[str, tuple[Make, str]] = {
    "rate": (lambda f: build(f, learning_rate=2e-2), r"learning_rate: 0.01 -> 0.02"),
    "schedule": (lambda f: build(f, lr_scheduler_type="cosine"), "lr_scheduler_type: 'linear' -> 'cosine'"),
    "decay": (lambda f: build(f, weight_decay=0.1), r"weight_decay: 0.0 -> 0.1"),
    "length": (lambda f: build(f, max_length=900), "max_length: 1024 -> 900"),
    "end": (lambda f: build(f, max_steps=8), "max_steps: 6 -> 8"),
    "one number of the weights": (lambda f: build(f, model=one_number_else()), "initial weights: "),
    "swapped sides": (swapped, "data: "),
    "other rows": (lambda f: on_rows(f, changed(lambda row: {"prompt_ids": [9, *row["prompt_ids"][1:]]})), "data: "),
    "another order": (lambda f: on_rows(f, ROWS.select(range(len(ROWS) - 1, -1, -1))), "data: "),
    "another reference": (lambda f: on_rows(f, ROWS, ref_model=tiny_llama(seed=3)), "reference: "),
    "another template": (other_template, "tokenizer.chat template: "),
    "another vocabulary": (other_vocabulary, "tokenizer.vocabulary: "),
    "a measure of the best": (
        lambda f: build(f, metric_for_best_model="eval_loss"),
        "metric_for_best_model: None -> 'eval_loss'",
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_run_is_refused_with_what_differs(other: str, finished: Path, tmp_path: Path) -> None:
    make, difference = OTHERS[other]
    trainer = make(tmp_path)
    with pytest.raises(ValueError, match=f"checkpoint-6 belongs to another run: .*{difference}"):
        trainer.train(resume_from_checkpoint=str(finished / "checkpoint-6"))
    assert not saved(tmp_path)


def test_one_number_of_a_given_reference_is_another_run(tmp_path: Path) -> None:
    on_rows(tmp_path / "a", ROWS, ref_model=tiny_llama(seed=3)).train()
    checkpoint_of = str(tmp_path / "a/run/checkpoint-4")
    with pytest.raises(ValueError, match=r"belongs to another run: reference weights: "):
        on_rows(tmp_path / "b", ROWS, ref_model=one_number_else(seed=3)).train(resume_from_checkpoint=checkpoint_of)
    same = on_rows(tmp_path / "b", ROWS, ref_model=tiny_llama(seed=3))
    same.train(resume_from_checkpoint=checkpoint_of)
    assert same.state.global_step == 6


@pytest.mark.parametrize("decides", [True, False])
def test_held_out_rows_may_be_others_where_they_decide_nothing(decides: bool, tmp_path: Path) -> None:
    """By them the best checkpoint is chosen; where none is, they are only measured on."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"} if decides else {}
    args = {"eval_strategy": "steps", "eval_steps": 2, **best}
    build(tmp_path, **args).train()
    shutil.rmtree(tmp_path / "run/checkpoint-6")

    def on(held_out: Any) -> PreferenceTrainer:
        config = PreferenceConfig(**quiet(tmp_path, **BASE | args))
        return PreferenceTrainer(tiny_llama(), DPO(), config, ROWS, held_out, build_tokenizer())

    if decides:
        with pytest.raises(ValueError, match="belongs to another run: evaluation data"):
            on(ROWS.select(range(6))).train(resume_from_checkpoint=True)
    trainer = on(ROWS if decides else ROWS.select(range(6)))
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 6


def test_what_differs_can_be_named_to_go_on_all_the_same(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = build(tmp_path, learning_rate=2e-2, max_steps=7, resume_with_changes=["learning_rate"])
    with pytest.raises(ValueError, match=r"another run: max_steps: 6 -> 7\. .*--resume_with_changes max_steps"):
        trainer.train(resume_from_checkpoint=str(finished / "checkpoint-6"))
    trainer = build(tmp_path, learning_rate=2e-2, max_steps=7, resume_with_changes=["learning_rate", "max_steps"])
    with caplog.at_level(logging.INFO, "prefopt"):
        trainer.train(resume_from_checkpoint=str(finished / "checkpoint-6"))
    assert "going on with max_steps: 6 -> 7; learning_rate: 0.01 -> 0.02" in caplog.text
    assert trainer.state.global_step == 7


def test_what_is_logged_saved_and_evaluated_may_change(finished: Path, tmp_path: Path) -> None:
    changes = {"logging_steps": 3, "save_steps": 1, "eval_strategy": "steps", "eval_steps": 3, "run_name": "别的"}
    trainer = build(tmp_path, **changes, per_device_eval_batch_size=3, dataloader_num_workers=0)
    trainer.train(resume_from_checkpoint=str(finished / "checkpoint-4"))
    assert saved(tmp_path) == ["checkpoint-5", "checkpoint-6"]


def test_a_constant_schedule_may_end_later_but_not_earlier(tmp_path: Path) -> None:
    constant = {"lr_scheduler_type": "constant", "warmup_steps": 0}
    build(tmp_path / "a", max_steps=4, **constant).train()
    longer, whole = build(tmp_path / "a", **constant), build(tmp_path / "b", **constant)
    longer.train(resume_from_checkpoint=True)
    whole.train()
    assert_equal(weights(longer), weights(whole))
    with pytest.raises(ValueError, match="max_steps: 6 -> 5"):
        build(tmp_path / "a", max_steps=5, **constant).train(resume_from_checkpoint=True)


def test_a_step_may_be_split_otherwise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build(tmp_path / "a").train()
    split = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    resumed = build(tmp_path / "b", **split)
    with caplog.at_level(logging.WARNING):
        resumed.train(resume_from_checkpoint=str(tmp_path / "a/run/checkpoint-2"))
    assert "equal those of the run as it was to about 1e-5, not to the bit" in caplog.text
    whole = build(tmp_path / "c")
    whole.train()
    for name, tensor in weights(whole).items():
        assert torch.allclose(weights(resumed)[name], tensor, atol=1e-5), name


@pytest.mark.parametrize(
    ("then", "now", "free"),
    [
        ({"processes": 1, "per_device_train_batch_size": 4}, {"processes": 2, "per_device_train_batch_size": 2}, True),
        ({"processes": 1, "per_device_train_batch_size": 4}, {"processes": 2, "per_device_train_batch_size": 4}, False),
        ({"processes": 1, "max_tokens_per_batch": 50}, {"processes": 2, "max_tokens_per_batch": 50}, False),
        (
            {"processes": 4, "max_tokens_per_batch": 50, "gradient_accumulation_steps": 1},
            {"processes": 1, "max_tokens_per_batch": 50, "gradient_accumulation_steps": 4},
            True,
        ),
    ],
)
def test_ranks_may_change_at_an_equal_product(then: dict[str, Any], now: dict[str, Any], free: bool) -> None:
    same = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_tokens_per_batch": None}
    assert (Comparison.of(same | then, same | now).refused() == []) == free


@pytest.mark.parametrize(
    ("then", "now", "free"),
    [
        ({"num_train_epochs": 1.0, "max_steps": -1}, {"num_train_epochs": 2.0, "max_steps": -1}, True),
        ({"num_train_epochs": 2.0, "max_steps": -1}, {"num_train_epochs": 1.0, "max_steps": -1}, False),
        ({"num_train_epochs": 1.0, "max_steps": -1}, {"num_train_epochs": 1.0, "max_steps": 9}, False),
        ({"num_train_epochs": 1.0, "max_steps": 9}, {"num_train_epochs": 3.0, "max_steps": 9}, True),
        ({"max_steps": 9, "warmup_steps": 0.1}, {"max_steps": 10, "warmup_steps": 0.1}, False),
        ({"max_steps": 9, "warmup_steps": 5}, {"max_steps": 10, "warmup_steps": 5}, True),
        ({"max_steps": 9, "lr_scheduler_type": "linear"}, {"max_steps": 10, "lr_scheduler_type": "linear"}, False),
    ],
)
def test_the_end_may_move_where_no_step_depends_on_it(then: dict[str, Any], now: dict[str, Any], free: bool) -> None:
    constant = {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 0}
    assert (Comparison.of(constant | then, constant | now).refused() == []) == free


def test_what_an_earlier_version_wrote_goes_on_and_says_what_it_could_not_compare(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its manifests held these alone, no hash of a file, and no seal."""
    known = "model adapter objective rows per_device_train_batch_size max_tokens_per_batch gradient_accumulation_steps "
    known += "processes sync_ref_model reference seed data_seed train_sampling_strategy"
    build(tmp_path, save_steps=4).train()
    folder = tmp_path / "run" / "checkpoint-4"
    manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
    run = {"format": 2, "trained weights": manifest["run"]["trained weights"]}
    run |= {name: manifest["run"][name] for name in known.split()}
    (folder / checkpoint.MANIFEST).write_text(json.dumps({"files": manifest["files"], "run": run}, indent=2))
    resumed, whole = build(tmp_path / "b"), build(tmp_path / "c")
    with caplog.at_level(logging.WARNING):
        resumed.train(resume_from_checkpoint=str(folder))
    told = [record.getMessage() for record in caplog.records if "could not be compared" in record.getMessage()]
    assert len(told) == 1 and "initial weights, tokenizer, data" in told[0] and "\n" not in told[0]
    whole.train()
    assert_equal(weights(resumed), weights(whole))
    with pytest.raises(ValueError, match="seed: 42 -> 1"):
        build(tmp_path / "d", seed=1).train(resume_from_checkpoint=str(folder))


def test_every_setting_is_compared_or_declared_free() -> None:
    """What transformers adds one day shapes weights until someone says that it does not."""
    names = {name for names in FREE.values() for name in names.split()}
    config = PreferenceConfig(use_cpu=True, output_dir="x")
    compared = settings_of(config)
    assert {"learning_rate", "optim", "adam_beta1", "warmup_steps", "max_grad_norm", "bf16", "seed"} <= set(compared)
    assert not names & set(compared) and "hub_token" in names and "model_init_kwargs" in names
    known = {each for each in vars(TrainingArguments(use_cpu=True, output_dir="x")) if not each.startswith("_")}
    assert {"output_dir", "logging_steps", "save_steps", "fsdp"} <= names & known
    assert json.loads(json.dumps(compared)) == compared


def test_a_hash_of_rows_depends_on_their_content_and_order_alone() -> None:
    rows = [
        {"ids": [[i, 2], [3] * (i % 4)], "score": [0.5, None], "text": f"第{i}行", "flag": i % 2 == 0}
        for i in range(40)
    ]
    whole = Dataset.from_list(rows)
    expected = rows_hash(whole)
    parts = concatenate_datasets([whole.select(range(7)), whole.select(range(7, 40))])
    again = Dataset.from_list(rows[::-1]).select(range(39, -1, -1))
    assert {rows_hash(parts), rows_hash(again), rows_hash(whole.select_columns(whole.column_names[::-1]))} == {expected}
    for index, changed in enumerate(
        ({"text": "x"}, {"flag": True}, {"score": [0.5, 0.0]}, {"ids": [[1], [2, 3, 3, 3]]})
    ):
        other = [dict(row) for row in rows]
        other[2 * index + 1] |= changed
        assert rows_hash(Dataset.from_list(other)) != expected, changed
    assert rows_hash(Dataset.from_list(rows[::-1])) != expected


def test_a_flipped_character_of_a_manifest_is_found(finished: Path, tmp_path: Path) -> None:
    text = (finished / "checkpoint-6" / checkpoint.MANIFEST).read_text()
    assert sealed({k: v for k, v in json.loads(text).items() if k != "seal"}) == text
    folder = tmp_path / "checkpoint-6"
    folder.mkdir()
    (folder / checkpoint.MANIFEST).write_text(text.replace('"learning_rate": 0.01', '"learning_rate": 0.02'))
    assert checkpoint.problem_with(folder) == f"{checkpoint.MANIFEST} is damaged"

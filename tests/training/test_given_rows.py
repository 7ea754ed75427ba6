"""Rows, models and adapters that cannot be trained are refused in words before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, IterableDataset
from peft import (
    AdaptionPromptConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import PreTrainedTokenizerFast, ProcessorMixin

import prefopt
import prefopt.training.build as building
from prefopt import load_preferences
from prefopt.data import DataError
from prefopt.models.load import load_policy
from prefopt.testbed import hh_rlhf, preference_rows, write_jsonl
from tests.helpers.commands import error_of
from tests.helpers.models import tiny_llama

OFF: dict[str, Any] = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "bf16": False, "max_steps": 1}
GRADED = load_preferences(Dataset.from_list(preference_rows(8, 0)))
UNGRADED = GRADED.remove_columns("grade")


@pytest.fixture(autouse=True)
def _nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model fails: what is refused is refused before."""

    def load(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(building, "_load", load)
    monkeypatch.setattr(building, "load_tokenizer", load)


def dpo(folder: Path, train: Any, evaluation: Any = None, model: Any = "m", **more: Any) -> Any:
    changes = {name: more.pop(name) for name in ("precompute_ref_log_probs", "eval_strategy") if name in more}
    args = prefopt.DPOConfig(str(folder), **OFF, **changes)
    return prefopt.DPOTrainer(model, args=args, train_dataset=train, eval_dataset=evaluation, **more)


def stream() -> IterableDataset:
    return IterableDataset.from_generator(lambda: iter(preference_rows(8, 0)))


def empty() -> Dataset:
    return GRADED.select([])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: {"train": None}, "train_dataset is missing: pass the rows to train on"),
        (lambda: {"train": stream()}, "train_dataset is a IterableDataset, .* load it without streaming"),
        (lambda: {"train": stream(), "precompute_ref_log_probs": True}, "train_dataset is a IterableDataset"),
        (lambda: {"train": iter(preference_rows(8, 0))}, "train_dataset is a list_iterator, .* cannot be a stream"),
        (lambda: {"train": GRADED, "evaluation": stream()}, "eval_dataset is a IterableDataset"),
        (lambda: {"train": DatasetDict(train=GRADED, test=GRADED)}, r"a dict of datasets \(train, test\): pass one"),
        (lambda: {"train": empty()}, "train_dataset has 0 rows"),
        (lambda: {"train": Dataset.from_list(preference_rows(8, 0)).select([])}, "train_dataset has 0 rows"),
        (lambda: {"train": []}, "train_dataset has 0 rows"),
        (lambda: {"train": GRADED, "evaluation": empty()}, "eval_dataset has 0 rows"),
        (lambda: {"train": GRADED, "evaluation": {}}, "eval_dataset is an empty dict"),
        (lambda: {"train": GRADED, "evaluation": {"zh": GRADED, "en": empty()}}, r"eval_dataset\['en'\] has 0 rows"),
        (lambda: {"train": GRADED, "evaluation": {"好": GRADED, "坏": None}}, r"eval_dataset\['坏'\] is None"),
        (lambda: {"train": GRADED, "eval_strategy": "epoch"}, "eval_strategy='epoch' .* eval_dataset is missing"),
        (lambda: {"train": "gone.jsonl"}, "train_dataset: gone.jsonl: no such file"),
        (lambda: {"train": [{"prompt": "a", "completion": "b"}]}, "train_dataset: row 0 has 1 responses"),
        (lambda: {"train": GRADED, "evaluation": [{"text": "a"}]}, "eval_dataset: row 0 has 1 responses"),
    ],
)
def test_rows_that_nothing_can_come_of(given: Callable[[], dict[str, Any]], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        dpo(tmp_path, **given())


def test_rows_without_answers_are_no_demonstrations(tmp_path: Path) -> None:
    prompts = GRADED.select_columns("prompt")
    with pytest.raises(DataError, match="train_dataset: row 0 has no response and SFT learns from them"):
        prefopt.SFTTrainer("m", prefopt.SFTConfig(str(tmp_path), **OFF), train_dataset=prompts)


@pytest.mark.parametrize("margin", ["small", "large"])
@pytest.mark.parametrize("part", ["train_dataset", "eval_dataset"])
def test_a_margin_by_grades_that_are_not_there(margin: str, part: str, tmp_path: Path) -> None:
    rows = {"train_dataset": GRADED, "eval_dataset": GRADED, part: UNGRADED}
    with pytest.raises(DataError, match=f"{part}: margin='{margin}' needs the column `grade` .* leave margin out"):
        prefopt.RewardTrainer("m", prefopt.RewardConfig(str(tmp_path), **OFF, margin=margin), **rows)


def test_a_margin_by_grades_of_which_none_is_known(tmp_path: Path) -> None:
    unknown = UNGRADED.add_column("grade", [None] * len(UNGRADED), feature=GRADED.features["grade"])
    with pytest.raises(DataError, match="train_dataset: margin='small' needs the column `grade`"):
        args = prefopt.RewardConfig(str(tmp_path), **OFF, margin="small")
        prefopt.RewardTrainer("m", args, train_dataset=unknown)


def test_a_margin_by_a_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train_dataset: margin='column' needs the column `margin` with a number"):
        args = prefopt.RewardConfig(str(tmp_path), **OFF, margin="column")
        prefopt.RewardTrainer("m", args, train_dataset=GRADED)


@pytest.mark.parametrize(
    ("train", "held_out", "said"),
    [
        (GRADED, UNGRADED, "margin='auto' takes no margins here, and from `grade` in the training rows"),
        (UNGRADED, GRADED, "margin='auto' takes margins from the column `grade` here, and none in the training rows"),
        (GRADED, GRADED, ""),
        (UNGRADED, UNGRADED, ""),
    ],
)
def test_held_out_rows_whose_loss_is_another_are_told_before_anything(
    train: Dataset, held_out: Dataset, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = prefopt.RewardConfig(str(tmp_path), **OFF)
    with pytest.raises(AssertionError, match="a model was loaded"):
        prefopt.RewardTrainer("m", args, train_dataset=train, eval_dataset={"part": held_out})
    told = [text for text in caplog.messages if "margin=" in text]
    assert [text.startswith(f"eval_dataset['part']: {said}") for text in told] == [True] * bool(said)


@pytest.mark.parametrize("graded", ["train", "test"])
def test_the_command_line_finds_a_margin_without_grades(
    graded: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    """HH-RLHF's files have none."""
    tiny_llama(vocab=len(tokenizer)).save_pretrained(tmp_path / "model")
    for name in ("train", "test"):
        rows = preference_rows(8, 0)
        write_jsonl(tmp_path / f"{name}.jsonl", rows if name == graded else list(map(hh_rlhf, rows)))
    files = ["--dataset_name", tmp_path / "train.jsonl", "--eval_dataset", tmp_path / "test.jsonl"]
    command = ["reward", "--model_name_or_path", tmp_path / "model", *files, "--margin", "small", "--use_cpu"]
    error = error_of(capsys, *command, "--bf16", "false", "--output_dir", tmp_path / "out")
    part = "eval_dataset" if graded == "train" else "train_dataset"
    assert f"{part}: margin='small' needs the column `grade`" in error
    assert not (tmp_path / "out").exists()


LEARNT_PROMPTS = [
    PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=1),
]


@pytest.mark.parametrize("config", LEARNT_PROMPTS, ids=lambda config: type(config).__name__)
def test_adapters_of_the_prompt(config: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{config.peft_type.value} changes the prompt, not the layers: use .* LoRA"):
        dpo(tmp_path, GRADED, peft_config=config)


def test_adapters_of_the_prompt_on_a_model_and_on_disk(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path / "base")
    model = get_peft_model(load_policy(str(tmp_path / "base")), LEARNT_PROMPTS[0])
    model.save_pretrained(tmp_path / "adapter")
    for given in (model, str(tmp_path / "adapter")):
        with pytest.raises(ValueError, match="PROMPT_TUNING changes the prompt"):
            load_policy(given)


def test_what_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"peft_config=\{'r': 4\}: give a config of PEFT's, such as LoraConfig"):
        dpo(tmp_path, GRADED, peft_config={"r": 4})


def test_models_that_would_not_be_used(tmp_path: Path) -> None:
    args = prefopt.SFTConfig(str(tmp_path), **OFF)
    with pytest.raises(ValueError, match="uses no reference: leave ref_model out"):
        prefopt.SFTTrainer("m", args, train_dataset=GRADED, ref_model="r")
    with pytest.raises(ValueError, match="DPO trains no critic: leave critic out"):
        dpo(tmp_path, GRADED, critic="c")
    with pytest.raises(ValueError, match="processing_class is a ProcessorMixin, .* pass its tokenizer"):
        dpo(tmp_path, GRADED, processing_class=ProcessorMixin())

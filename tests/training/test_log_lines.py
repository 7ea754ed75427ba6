"""Lines of a log as a person reads them, and settings that are refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, ProgressCallback

import prefopt
from prefopt import DPOConfig, DPOTrainer, KTOConfig, PPOConfig
from prefopt.testbed import preference_rows
from prefopt.training import trackers
from prefopt.training.log_lines import LogBar, LogPrinter, line_of
from prefopt.training.older_settings import DROPPED, RENAMED
from tests.helpers.models import untrained

LOGS = {
    "loss": 0.69314,
    "grad_norm": 0.7459,
    "learning_rate": 6.25e-07,
    "rewards/accuracies": 0.7375,
    "rewards/margins": 4.745e-05,
    "rewards/chosen": 3.973e-05,
    "num_tokens": 4349.0,
    "epoch": 1.25,
}


def test_a_line_has_the_most_telling_numbers_that_fit() -> None:
    line = "step 10/24  loss 0.693  accuracy 0.738  margin 4.75e-05  gradient 0.746"
    assert line_of(LOGS, 10, 24, 79) == line
    assert line_of(LOGS, 10, 24, 100) == f"{line}  rate 6.25e-07"
    assert line_of(LOGS, 10, 24, 200) == f"{line}  rate 6.25e-07  rewards/chosen 3.97e-05"
    assert line_of(LOGS, 10, 24, 5) == "step 10/24  loss 0.693", "the first number is always there"


def test_evaluations_and_ends_are_told_apart() -> None:
    held_out = {"eval_loss": 0.7, "eval_accuracy": 0.5, "eval_runtime": 0.1, "eval_samples_per_second": 9.0}
    assert line_of(held_out, 8, 24) == "step  8/24  held out  loss 0.7  accuracy 0.5"
    assert line_of({"train_runtime": 1.25, "train_loss": 0.51163}, 24, 24) == (
        "trained to step 24 in 1.2 s, mean loss 0.5116"
    )


@pytest.mark.parametrize("quiet", [True, False])
def test_a_run_of_few_steps_shows_its_loss(
    quiet: bool, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    args = DPOConfig(str(tmp_path), max_steps=2, bf16=False, disable_tqdm=quiet, save_strategy="no", use_cpu=True)
    trainer = DPOTrainer(
        untrained(tokenizer),
        args=args,
        train_dataset=Dataset.from_list(preference_rows(8, 0)),
        processing_class=tokenizer,
    )
    assert any(type(each) is (LogPrinter if quiet else LogBar) for each in trainer.callback_handler.callbacks)
    trainer.train()
    lines = [line for line in capsys.readouterr().out.splitlines() if "step" in line]
    assert [
        line.strip().startswith(f"step 2/2  loss {trainer.state.log_history[0]['loss']:.3g}") for line in lines
    ] == [
        True,
        False,
    ]
    assert [logs["step"] for logs in trainer.state.log_history if "loss" in logs] == [2]
    trainer.remove_callback(ProgressCallback)  # a user who wants no bar takes ours away by Trainer's name
    assert not any(type(each) is LogBar for each in trainer.callback_handler.callbacks)


@pytest.mark.parametrize(
    ("config", "given", "said"),
    [
        (DPOConfig, {"beta": -1}, "beta=-1 must be above 0"),
        (KTOConfig, {"desirable_weight": -1.0}, "desirable_weight"),
        (PPOConfig, {"num_mini_batches": 0}, "num_mini_batches"),
        (DPOConfig, {"report_to": "wanbd"}, "report_to='wanbd': no such tracker; did you mean wandb"),
        (DPOConfig, {"report_to": ["tensorboard", "x"]}, "report_to='x': no such tracker; known are .*, none"),
        (DPOConfig, {"per_device_train_batch_size": 0}, "per_device_train_batch_size=0 must be at least 1"),
        (DPOConfig, {"gradient_accumulation_steps": 0}, "gradient_accumulation_steps=0 must be at least 1"),
        (DPOConfig, {"learning_rate": -1}, "learning_rate=-1 must not be below 0"),
        (DPOConfig, {"num_train_epochs": 0}, "num_train_epochs=0 trains nothing: .* or max_steps"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_written(config: type, given: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        config(str(tmp_path), **given)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("betta", "DPOConfig has no setting 'betta'; did you mean beta?"),
        ("lr", "did you mean learning_rate?"),
        ("evaluation_strategy", "did you mean eval_strategy?"),
        ("group_by_length", "max_tokens_per_batch puts rows of similar length together"),
        ("label_pad_token_id", "the padding and the labels are prefopt's own; leave it out"),
    ],
)
def test_a_name_that_no_setting_has_gets_its_hint(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError) as error:
        DPOConfig(str(tmp_path), **{name: 1})
    assert said in str(error.value)


def test_names_that_are_gone_have_one_answer_each() -> None:
    assert not RENAMED.keys() & DROPPED.keys()
    names = {name for config in (DPOConfig, PPOConfig, prefopt.SFTConfig) for name in config.__dataclass_fields__}
    assert not names & DROPPED.keys() and not names & RENAMED.keys()


def test_a_tracker_that_is_not_installed_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="report_to='comet_ml' needs a package: pip install comet-ml"):
        trackers.check_installed(["comet_ml"])
    monkeypatch.setattr(trackers, "find_spec", lambda name: name == "tensorboardX" or None)
    trackers.check_installed(["tensorboard", "azure_ml"])
    with pytest.raises(ValueError, match="pip install wandb"):
        trackers.check_installed(["tensorboard", "wandb"])

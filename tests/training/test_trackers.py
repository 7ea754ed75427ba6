"""What `report_to` sends where the tracker is installed: without a network, and what the log has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from prefopt import DPOConfig, DPOTrainer
from prefopt.testbed import preference_rows
from tests.helpers.models import untrained


def trained(tracker: str, folder: Path, tokenizer: PreTrainedTokenizerFast) -> Any:
    args = DPOConfig(
        str(folder),
        report_to=tracker,
        run_name="a-run",
        max_steps=2,
        logging_steps=1,
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        hub_token="hf_abcdefghijklmnopqrstuvwxyz",
    )
    rows = Dataset.from_list(preference_rows(8, 0))
    trainer = DPOTrainer(untrained(tokenizer), args=args, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    return trainer


def texts(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_tensorboard_has_the_metrics_of_the_log(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = trained("tensorboard", tmp_path, tokenizer)
    [events] = list(tmp_path.rglob("events.out.*"))
    found = EventAccumulator(str(events.parent))
    found.Reload()
    logged = [logs["rewards/margins"] for logs in trainer.state.log_history if "rewards/margins" in logs]
    shown = [event.value for event in found.Scalars("train/rewards/margins")]
    assert shown == pytest.approx(logged, abs=1e-6) and len(shown) == 2
    assert b"hf_abcdefghijklmnopqrstuvwxyz" not in texts(tmp_path)


def test_wandb_writes_offline(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    trainer = trained("wandb", tmp_path, tokenizer)
    last = [logs["loss"] for logs in trainer.state.log_history if "loss" in logs][-1]
    assert wandb.run.name == "a-run" and wandb.run.summary["train/loss"] == pytest.approx(last)
    wandb.finish()
    assert b"hf_abcdefghijklmnopqrstuvwxyz" not in texts(tmp_path)


def test_trackio_writes_to_its_folder(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    trained("trackio", tmp_path / "out", tokenizer)
    assert b"rewards/margins" in texts(tmp_path / "trackio")
    assert b"hf_abcdefghijklmnopqrstuvwxyz" not in texts(tmp_path)

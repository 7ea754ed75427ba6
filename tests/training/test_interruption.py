"""SIGTERM, SIGHUP and Ctrl-C end a training with a checkpoint of its step, from which it goes on bit by bit.

Kills at random moments of every method are in `test_kills.py`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from transformers import TrainerCallback

import prefopt
from prefopt import RejectionSamplingTrainer
from prefopt.testbed import preference_rows
from prefopt.training import checkpoint, interruption
from prefopt.utils.signals import listening
from tests.helpers.checkpoints import assert_equal, build, saved, weights
from tests.helpers.iterations import config, vowels
from tests.helpers.models import untrained
from tests.helpers.ppo import trainer_of

STATUS = {"SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130}


@pytest.fixture(autouse=True)
def _not_under_nohup() -> Iterator[None]:
    """A program that was started to outlive its terminal ignores SIGHUP, and so do all that it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


class Sends(TrainerCallback):
    """A signal in the step after `step`."""

    def __init__(self, name: str, step: int):
        self.name, self.step = name, step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), getattr(signal, self.name))


@pytest.mark.parametrize("name", STATUS)
def test_the_step_is_finished_saved_and_gone_on_from(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where no checkpoints were asked for."""
    whole, stopped, resumed = (build(tmp_path / each, save_strategy="no") for each in ("whole", "run", "run"))
    whole.train()
    stopped.add_callback(Sends(name, 2))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(prefopt.Interrupted) as caught:
        stopped.train()
    assert (caught.value.code, isinstance(caught.value, KeyboardInterrupt)) == (STATUS[name], name == "SIGINT")
    assert "after step 3 of 6" in str(caught.value) and "train(resume_from_checkpoint=True)" in str(caught.value)
    assert str(caught.value) in caplog.text  # of a program in Python, which says nothing of its own
    assert saved(tmp_path / "run") == ["checkpoint-3"] and signal.getsignal(signal.SIGTERM) is before
    resumed.train(resume_from_checkpoint=True)
    assert_equal(weights(resumed), weights(whole))


def test_a_signal_while_a_step_is_evaluated_waits_for_the_next(tmp_path: Path) -> None:
    class SendsLater(Sends):
        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer = build(tmp_path, eval_strategy="steps", eval_steps=2)
    trainer.add_callback(SendsLater("SIGTERM", -1))
    with pytest.raises(prefopt.Interrupted, match="after step 3 of 6"):
        trainer.train()
    assert saved(tmp_path) == ["checkpoint-2", "checkpoint-3"]


def test_a_checkpoint_that_cannot_be_written_is_told_with_the_signals_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    trainer = build(tmp_path)
    trainer.add_callback(Sends("SIGTERM", 2))
    with monkeypatch.context() as patch, pytest.raises(prefopt.Interrupted) as caught:
        build(tmp_path, max_steps=2).train()
        trainer.args.resume_with_changes = ["max_steps"]
        patch.setattr(checkpoint, "publish", full)
        trainer.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-2"))
    assert caught.value.code == 143
    assert "No space left" in str(caught.value) and f"{tmp_path}/run/checkpoint-2" in str(caught.value)
    assert saved(tmp_path) == ["checkpoint-2"]


def test_transformers_own_way_does_not_end_a_run_as_if_it_were_done(tmp_path: Path) -> None:
    trainer = build(tmp_path, enable_jit_checkpoint=True)
    trainer.add_callback(Sends("SIGTERM", 2))
    with pytest.raises(prefopt.Interrupted):
        trainer.train()
    assert saved(tmp_path) == ["checkpoint-2", "checkpoint-3"]


def test_a_signal_that_comes_while_ranks_agree_is_for_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other rank has been told of none, and would wait for this one."""
    monkeypatch.setattr(interruption, "world_size", lambda: 2)
    monkeypatch.setattr(interruption.distributed, "all_reduce", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    accelerator: Any = SimpleNamespace(device="cpu")
    with pytest.raises(prefopt.Interrupted), listening() as signals, signals.deferred():
        assert not interruption.asked_by_any(accelerator)
        assert interruption.asked_by_any(accelerator)


@pytest.mark.parametrize("grace", [0, -1.0])
def test_no_time_at_all_is_refused(grace: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="signal_grace"):
        build(tmp_path, signal_grace=grace)


@pytest.fixture(scope="module")
def pairs() -> Dataset:
    return Dataset.from_list(preference_rows(8, seed=3))


class Judge:
    """Scores by vowels, and sends a signal the n-th time."""

    def __init__(self, name: str, when: int):
        self.name, self.left = name, when

    def __call__(self, prompts: Any, responses: Any) -> list[float]:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), getattr(signal, self.name))
        return vowels(prompts, responses)


def test_ppo_keeps_what_it_had_learnt_before_the_rollout(tmp_path: Path, tokenizer: Any, pairs: Dataset) -> None:
    trainer = trainer_of(tmp_path, tokenizer, pairs, scorer=Judge("SIGTERM", 2), max_steps=6)
    with pytest.raises(prefopt.Interrupted, match="after step 2 of 6"):
        trainer.train()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]
    assert checkpoint.problem_with(tmp_path / "run/checkpoint-2") is None


def test_ppo_learns_from_a_rollout_to_its_end(tmp_path: Path, tokenizer: Any, pairs: Dataset) -> None:
    trainer = trainer_of(tmp_path, tokenizer, pairs, callbacks=[Sends("SIGTERM", 2)], max_steps=6)
    with pytest.raises(prefopt.Interrupted, match="after step 4 of 6"):
        trainer.train()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-4"]


def test_iterations_keep_what_is_sampled(tmp_path: Path, tokenizer: Any, pairs: Dataset) -> None:
    more: dict[str, Any] = {"train_dataset": pairs, "processing_class": tokenizer, "scorer": Judge("SIGHUP", 1)}
    trainer = RejectionSamplingTrainer(untrained(tokenizer), config(tmp_path, iterations=2), **more)
    with pytest.raises(prefopt.Interrupted, match="after 0 of 2 iterations.\n.*is in ") as caught:
        trainer.train()
    assert caught.value.code == 129
    assert list((tmp_path / "run/pool").glob("candidates-*.jsonl")) and not list(tmp_path.glob("run/iteration-*"))

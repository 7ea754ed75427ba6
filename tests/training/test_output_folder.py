"""One run a folder, one program at a time; a used folder is refused or moved aside whole; finished runs stay so."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import EarlyStoppingCallback, TrainerCallback

from prefopt import PreferenceConfig, PreferenceTrainer
from prefopt.objectives.dpo import DPO
from prefopt.testbed.model import build_tokenizer
from prefopt.training.output_folder import LOCK, claim, contents, locked, move_aside
from tests.helpers.checkpoints import ROWS, assert_equal, build, logs, saved, weights
from tests.helpers.models import tiny_llama
from tests.helpers.training import quiet


class Stop(TrainerCallback):
    """Ends a run after a step as a kill does."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def stopped(folder: Path, step: int, **args: Any) -> None:
    trainer = build(folder, **args)
    trainer.add_callback(Stop(step))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()


# ---- a folder belongs to one run -----------------------------------------------------------------------------------


def test_a_used_folder_is_refused_and_moved_aside_if_asked(tmp_path: Path) -> None:
    first = build(tmp_path)
    first.train()
    first.save_model()
    before = {p.relative_to(tmp_path / "run"): p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=r"run holds a run already: .*overwrite_output_dir=True.*checkpoint-6 \(3 ch"):
        build(tmp_path, seed=7).train()
    second = build(tmp_path, seed=7, overwrite_output_dir=True, max_steps=2)
    second.train()
    assert saved(tmp_path) == ["checkpoint-2"]
    aside = tmp_path / "run.1"
    assert {p.relative_to(aside): p.read_bytes() for p in aside.rglob("*") if p.is_file()} == before
    build(tmp_path, seed=8, overwrite_output_dir=True, max_steps=2).train()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "run.1", "run.2"]


def test_a_killed_run_resumes_its_own_checkpoint_or_none(tmp_path: Path) -> None:
    """The fault that was seen: another run's checkpoint-6 was taken after a kill behind the own checkpoint-2."""
    build(tmp_path).train()
    with pytest.raises(ValueError, match="holds a run already"):
        build(tmp_path, learning_rate=3e-2).train()
    stopped(tmp_path, 3, learning_rate=3e-2, overwrite_output_dir=True)
    resumed, whole = build(tmp_path, learning_rate=3e-2), build(tmp_path / "whole", learning_rate=3e-2)
    resumed.train(resume_from_checkpoint=True)
    whole.train()
    assert_equal(weights(resumed), weights(whole))


def test_a_final_model_alone_makes_a_folder_used(tmp_path: Path) -> None:
    trainer = build(tmp_path, save_strategy="no")
    trainer.train()
    trainer.train()  # nothing of it is on disk
    trainer.save_model()
    with pytest.raises(ValueError, match=r"holds a run already.*a final model \(config.json\)"):
        build(tmp_path).train()


def test_a_checkpoint_from_elsewhere_does_not_come_into_a_used_folder(tmp_path: Path) -> None:
    build(tmp_path / "a").train()
    build(tmp_path / "b").train()
    with pytest.raises(ValueError, match="holds a run already"):
        build(tmp_path / "b").train(resume_from_checkpoint=str(tmp_path / "a/run/checkpoint-2"))


@pytest.mark.parametrize("wanted", [True, "auto", "run/checkpoint-2"])
def test_to_begin_anew_and_to_go_on_exclude_each_other(wanted: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="overwrite_output_dir begins anew and resume_from_checkpoint=.* goes on"):
        claim(tmp_path, wanted, True)


def test_the_models_own_folder_is_refused(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path / "run")
    build_tokenizer().save_pretrained(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    config = PreferenceConfig(**quiet(tmp_path))
    model = str(tmp_path / "other" / ".." / "run")
    (tmp_path / "other").mkdir()
    for given in ({"model": model}, {"model": tiny_llama(), "ref_model": model}):
        with pytest.raises(ValueError, match=f"is the folder of {list(given)[-1]}, which would be overwritten"):
            PreferenceTrainer(objective=DPO(), args=config, train_dataset=ROWS, **given)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


# ---- one command for a scheduler -----------------------------------------------------------------------------------


def test_auto_begins_goes_on_and_ends(tmp_path: Path) -> None:
    whole = build(tmp_path / "whole")
    whole.train()
    for step in (1, 3):
        trainer = build(tmp_path)
        trainer.add_callback(Stop(step))
        with pytest.raises(KeyboardInterrupt):
            trainer.train(resume_from_checkpoint="auto")
    for _ in range(2):
        trainer = build(tmp_path)
        trainer.train(resume_from_checkpoint="auto")
        assert_equal(weights(trainer), weights(whole))
        assert trainer.state.global_step == 6 and logs(trainer) == logs(whole)


def test_auto_takes_no_other_run_and_does_not_begin_over_damage(tmp_path: Path) -> None:
    build(tmp_path).train()
    with pytest.raises(ValueError, match="another run: learning_rate"):
        build(tmp_path, learning_rate=3e-2).train(resume_from_checkpoint="auto")
    for step in (2, 4, 6):
        (tmp_path / f"run/checkpoint-{step}/optimizer.pt").unlink()
    with pytest.raises(FileNotFoundError, match="checkpoint-6: optimizer.pt is missing"):
        build(tmp_path).train(resume_from_checkpoint="auto")


# ---- a run that is finished ----------------------------------------------------------------------------------------


ENDS: dict[str, tuple[dict[str, Any], int]] = {
    "in an epoch": ({"max_steps": 4}, 4),
    "with an epoch": ({}, 6),
    "a share of an epoch": ({"max_steps": -1, "num_train_epochs": 0.2, "save_steps": 1}, 2),
    "with accumulation": ({"max_steps": 4, "gradient_accumulation_steps": 2}, 4),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_finished_run_is_not_trained_further(end: str, tmp_path: Path) -> None:
    args, steps = ENDS[end]
    trainer = build(tmp_path, **args)
    trainer.train()
    assert trainer.state.global_step == steps
    before = saved(tmp_path)
    again = build(tmp_path, **args)
    result = again.train(resume_from_checkpoint=True)
    assert result.global_step == again.state.global_step == steps
    assert_equal(weights(again), weights(trainer))
    assert logs(again) == logs(trainer) and saved(tmp_path) == before and "train_loss" not in result.metrics


def test_a_run_that_was_stopped_early_stays_stopped(tmp_path: Path) -> None:
    args: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    args |= {"metric_for_best_model": "eval_loss", "greater_is_better": True}  # the loss falls: the first is the best
    first, again = build(tmp_path, **args), None
    first.add_callback(EarlyStoppingCallback(1))
    first.train()
    assert first.state.global_step == 4
    again = build(tmp_path, **args)
    again.add_callback(EarlyStoppingCallback(1))
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    assert_equal(weights(again), weights(first))


# ---- one program at a time -----------------------------------------------------------------------------------------


def in_a_child(act: Callable[[], Any]) -> int:
    """The status of a process that did this: 0, or 3 if it was refused in a sentence."""
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        except ValueError as error:
            os._exit(3 if "another program is writing a run in" in str(error) else 4)
        except BaseException:
            os._exit(5)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def try_to_lock(folder: Path) -> None:
    from prefopt.training import output_folder

    output_folder._held.clear()  # which a fork copies, and another program has not
    with locked(folder):
        pass


def test_a_second_program_is_refused_while_the_first_writes(tmp_path: Path) -> None:
    class Second(TrainerCallback):
        statuses: list[int] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.statuses.append(in_a_child(lambda: try_to_lock(tmp_path / "run")))

    trainer = build(tmp_path, max_steps=2)
    trainer.add_callback(Second())
    trainer.train()
    assert Second.statuses == [3, 3]
    assert in_a_child(lambda: try_to_lock(tmp_path / "run")) == 0 and LOCK not in saved(tmp_path)


def test_a_lock_dies_with_its_program_though_a_child_of_it_lives(tmp_path: Path) -> None:
    """As the workers of a data loader do, for some seconds."""
    ready, say = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(tmp_path):
            if os.fork() == 0:
                signal.alarm(30)
                os.write(say, b"%d\n" % os.getpid())
                signal.pause()
            signal.pause()
    grandchild = int(os.read(ready, 20))
    try:
        assert in_a_child(lambda: try_to_lock(tmp_path)) == 3
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert in_a_child(lambda: try_to_lock(tmp_path)) == 0
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_the_new_folder_is_locked_when_the_old_one_is_moved_aside(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert contents(folder) == "a final model (config.json)"
    with locked(folder):
        with locked(folder):
            assert move_aside(folder) == tmp_path / "run.1"
        assert in_a_child(lambda: try_to_lock(folder)) == 3
    assert in_a_child(lambda: try_to_lock(folder)) == 0
    assert [p.name for p in (tmp_path / "run.1").iterdir()] == ["config.json"] and not list(folder.iterdir())

"""What a training takes is measured once, whether it is killed or not, and can end it."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from prefopt import PPOConfig, PPOTrainer, PreferenceConfig, PreferenceTrainer, RejectionSampling
from prefopt.compare.report.findings import Cost
from prefopt.compare.run.cost import FILE, Budget, Spent, measured
from prefopt.models.heads import scorer_from_policy
from prefopt.scoring import RewardModelScorer
from prefopt.testbed import preference_rows
from prefopt.testbed.model import build_tokenizer
from prefopt.training.iterative import loop as iterations
from prefopt.utils import jsonl
from prefopt.utils.flop_counter import FlopCounter, add, paused
from prefopt.utils.jsonl import DamagedFile
from tests.helpers.iterations import vowels
from tests.helpers.models import tiny_llama, untrained
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

ROWS = ragged_pairs(12)
STEPS = 6
FREE = ("seconds", "cpu_seconds", "peak_memory")
"""What a kill may change."""


class Kill(BaseException):
    pass


class KillAt(TrainerCallback):
    """Ends a run without warning after a step, when its checkpoint, if one is due, is not yet written."""

    def __init__(self, step: int, folder: str = ""):
        self.step, self.folder = step, folder

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step and self.folder in str(args.output_dir):
            raise Kill


class KillAtEnd(KillAt):
    """Of the first training, before anybody has kept its weights."""

    def __init__(self) -> None:
        super().__init__(-1)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise Kill


class Clocks(TrainerCallback):
    """Seconds from the first step to the end of the last, by the wall and of this process, in `taken`."""

    began: np.ndarray | None = None

    @staticmethod
    def now() -> np.ndarray:
        return np.array([time.monotonic(), time.process_time()])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = self.now() if self.began is None else self.began

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.taken = self.now() - self.began


def dpo(folder: Path, *callbacks: Any, model: Any = None, **changes: Any) -> PreferenceTrainer:
    given = {"max_steps": STEPS, "per_device_train_batch_size": 2, "learning_rate": 1e-2, **changes}
    model = tiny_llama() if model is None else model
    args = PreferenceConfig(**quiet(folder, **given))
    return PreferenceTrainer(model, "dpo", args, ROWS, ROWS, build_tokenizer(), callbacks=list(callbacks))


def ppo(folder: Path, *callbacks: Any) -> PPOTrainer:
    """Two rollouts, each learnt from in two steps, and saved."""
    tokenizer = build_tokenizer()
    given: dict[str, Any] = {"max_new_tokens": 6, "num_mini_batches": 2, "critic_pretrain_steps": 0, "max_steps": 4}
    args = PPOConfig(**quiet(folder, per_device_train_batch_size=2, save_strategy="steps", save_steps=2, **given))
    rows = Dataset.from_list(preference_rows(8, seed=3))
    scorer, policy = reward_model(), untrained(tokenizer)
    return PPOTrainer(
        policy, args, train_dataset=rows, processing_class=tokenizer, scorer=scorer, callbacks=list(callbacks)
    )


def reward_model() -> RewardModelScorer:
    tokenizer = build_tokenizer()
    head = scorer_from_policy(untrained(tokenizer))
    torch.manual_seed(5)
    torch.nn.init.normal_(head.score.weight, std=0.3)
    return RewardModelScorer(head, tokenizer)


def rejection_sampling(folder: Path, *callbacks: Any, scorer: Any = vowels, **changes: Any) -> PreferenceTrainer:
    """Two iterations of four steps."""
    tokenizer = build_tokenizer()
    given: dict[str, Any] = {"per_device_train_batch_size": 2, "max_steps": 4, **changes}
    return PreferenceTrainer(
        untrained(tokenizer),
        RejectionSampling(iterations=2, responses_per_prompt=2, max_new_tokens=6),
        PreferenceConfig(**quiet(folder, **given)),
        train_dataset=Dataset.from_list(preference_rows(8, seed=3)),
        processing_class=tokenizer,
        scorer=scorer,
        callbacks=list(callbacks),
    )


def counts(spent: Spent) -> dict[str, Any]:
    return {name: value for name, value in vars(spent.cost()).items() if name not in FREE}


def through(make: Any, folder: Path, *more: Any, **changes: Any) -> Spent:
    """A run that nobody disturbs."""
    with measured(folder) as spent:
        make(folder, spent, *more, **changes).train()
    return spent


def killed_and_resumed(make: Any, folder: Path, kill: KillAt, **changes: Any) -> Spent:
    with pytest.raises(Kill), measured(folder) as spent:
        make(folder, spent, kill, **changes).train()
    with measured(folder) as spent:
        make(folder, spent, **changes).train(resume_from_checkpoint="auto")
    return spent


# ---- one run -------------------------------------------------------------------------------------------------------


def test_what_a_run_takes(tmp_path: Path) -> None:
    steps, began = Clocks(), Clocks.now()
    spent = through(dpo, tmp_path, steps)
    wall, cpu = Clocks.now() - began
    cost = spent.cost({"sft": 7.0})
    assert isinstance(cost, Cost) and cost.shared == {"sft": 7.0} and cost.steps == STEPS
    assert cost.flops["training"] == 3 * cost.flops["reference"] > 0 and set(cost.flops) == {"training", "reference"}
    assert cost.tokens["training"] == cost.tokens["reference"] > 0 and cost.total == cost.own + 7.0
    least_wall, least_cpu = steps.taken
    assert 0 < least_wall <= cost.seconds <= wall and 0 < least_cpu <= cost.cpu_seconds <= cpu
    assert cost.peak_memory is not None and 50e6 < cost.peak_memory < 50e9  # torch alone is above 100 MB
    assert json.loads((tmp_path / FILE).read_text())["now"]["steps"] == STEPS  # for a process that goes on from here
    json.dumps(vars(cost))


def test_counting_changes_no_training(tmp_path: Path) -> None:
    plain = dpo(tmp_path / "plain")
    plain.train()
    with measured() as spent:
        counted = dpo(tmp_path / "counted", spent)
        counted.train()
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(weight, counted.model.state_dict()[name]), name


def test_precomputed_log_probs_are_counted_once(tmp_path: Path) -> None:
    """Once for each row of the two data sets, which are the same, so that the second is read from the cache."""
    epochs: dict[str, Any] = {"max_steps": -1, "num_train_epochs": 2}
    live = through(dpo, tmp_path / "live", **epochs)
    once = through(dpo, tmp_path / "once", precompute_ref_log_probs=True, **epochs)
    assert counts(once)["flops"]["reference"] == counts(live)["flops"]["reference"] / 2
    assert counts(once)["flops"]["training"] == counts(live)["flops"]["training"]


def test_neither_evaluation_nor_a_watcher_counts_as_training(tmp_path: Path) -> None:
    class Watcher(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            with paused():
                add("training", 1e30, 1)

    plain = counts(through(dpo, tmp_path / "plain"))
    watched = counts(through(dpo, tmp_path / "watched", Watcher()))
    assert watched == plain
    evaluated = counts(through(dpo, tmp_path / "evaluated", eval_strategy="steps", eval_steps=2))
    assert evaluated["flops"]["training"] == plain["flops"]["training"]
    assert sum(evaluated["flops"].values()) > 1.5 * sum(plain["flops"].values())


def test_checkpointing_costs_a_forward_pass_more(tmp_path: Path) -> None:
    usual = counts(through(dpo, tmp_path / "usual"))["flops"]
    again = counts(through(dpo, tmp_path / "again", gradient_checkpointing=True))["flops"]
    assert again["reference"] == usual["reference"]
    ratio = again["training"] / again["reference"]
    assert 3.2 < ratio < 4  # the language-model head, which is much of this model, is not checkpointed


# ---- killed and resumed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"eval_strategy": "steps", "eval_steps": 1}], ids=["plain", "evaluated"])
@pytest.mark.parametrize("step", [2, 5])
def test_a_resumed_run_has_spent_what_an_undisturbed_one_has(step: int, settings: Any, tmp_path: Path) -> None:
    """Checkpoints are written at steps 2 and 4; killed at step 2, before the first is, the run begins again."""
    saving = {"save_strategy": "steps", "save_steps": 2, **settings}
    whole = through(dpo, tmp_path / "whole", **saving)
    resumed = killed_and_resumed(dpo, tmp_path / "killed", KillAt(step), **saving)
    assert counts(resumed) == counts(whole) and counts(whole)["steps"] == STEPS


def test_the_rollouts_of_ppo_are_counted_and_survive_a_kill(tmp_path: Path) -> None:
    whole = through(ppo, tmp_path / "whole")
    found = counts(whole)
    assert {"training", "generation", "scoring", "reference"} <= set(found["flops"])
    assert all(value > 0 for value in found["flops"].values())
    resumed = killed_and_resumed(ppo, tmp_path / "killed", KillAt(3))
    assert counts(resumed) == found


@pytest.mark.parametrize("saving", [{}, {"save_strategy": "steps", "save_steps": 2}], ids=["no checkpoint", "saved"])
@pytest.mark.parametrize("iteration", ["iteration-000", "iteration-001"])
def test_iterations_that_are_done_are_counted_once(iteration: str, saving: dict[str, Any], tmp_path: Path) -> None:
    """In their own folder, where no trainer's checkpoint is left of them."""
    whole = through(rejection_sampling, tmp_path / "whole", **saving)
    resumed = killed_and_resumed(rejection_sampling, tmp_path / "killed", KillAt(3, iteration), **saving)
    assert counts(resumed) == counts(whole) and set(counts(whole)["flops"]) == {"training", "generation"}
    assert counts(whole)["steps"] == 8


@pytest.mark.parametrize("make", [dpo, rejection_sampling])
def test_a_training_that_nothing_was_kept_of_is_counted_once(make: Any, tmp_path: Path) -> None:
    whole = through(make, tmp_path / "whole")
    assert counts(killed_and_resumed(make, tmp_path / "killed", KillAtEnd())) == counts(whole)


def test_a_training_that_was_moved_with_what_it_had_spent_is_counted_once(tmp_path: Path) -> None:
    whole = through(dpo, tmp_path / "whole")
    with pytest.raises(Kill), measured(tmp_path / "here/run-0") as spent:
        dpo(tmp_path / "here/run-0", spent, KillAt(3)).train()
    (tmp_path / "here").rename(tmp_path / "there")
    with measured(tmp_path / "there/run-0") as spent:
        dpo(tmp_path / "there/run-0", spent).train(resume_from_checkpoint="auto")
    assert counts(spent) == counts(whole)


def test_iterations_before_a_kill_between_trainings_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the second iteration is about to draw, and no training is under way."""
    whole = through(rejection_sampling, tmp_path / "whole")
    real, draws = iterations.generate_into, iter([False, True, False])

    def generate(*args: Any, **kwargs: Any) -> int:
        if next(draws):
            raise Kill
        return real(*args, **kwargs)

    monkeypatch.setattr(iterations, "generate_into", generate)
    assert counts(killed_and_resumed(rejection_sampling, tmp_path / "killed", KillAt(-1))) == counts(whole)


@pytest.mark.parametrize("there", [True, False], ids=["once they are there", "before they are"])
@pytest.mark.parametrize("appended", range(4))
def test_responses_and_scores_that_a_kill_left_are_counted_once(
    appended: int, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two iterations put responses and then their scores on disk; the process ends before the n-th are there, or then.

    Scores are a reward model's. A process that begins anew has a model of its own, which is the same.
    """
    given = {"scorer": reward_model()}
    whole = through(rejection_sampling, tmp_path / "whole", **given)
    assert {"generation", "scoring", "training"} == counts(whole)["flops"].keys()
    real, written = jsonl._append, []

    def append(descriptor: int, data: bytes, size: int) -> None:
        if (last := len(written) == appended) and not there:
            raise Kill
        real(descriptor, data, size)
        written.append(data)
        if last:
            raise Kill

    monkeypatch.setattr(jsonl, "_append", append)
    with pytest.raises(Kill), measured(tmp_path) as spent:
        rejection_sampling(tmp_path, spent, **given).train()
    monkeypatch.setattr(jsonl, "_append", real)
    with measured(tmp_path) as spent:
        rejection_sampling(tmp_path, spent, **given).train(resume_from_checkpoint="auto")
    assert counts(spent) == counts(whole)


def test_iterations_that_are_all_done_are_counted_when_they_are_asked_for_again(tmp_path: Path) -> None:
    """As by a task whose result was lost."""
    whole = through(rejection_sampling, tmp_path)
    with measured(tmp_path) as spent:
        rejection_sampling(tmp_path, spent).train(resume_from_checkpoint="auto")
    assert counts(spent) == counts(whole)


def test_a_damaged_record_of_what_was_spent_is_refused(tmp_path: Path) -> None:
    through(dpo, tmp_path / "one")
    path = tmp_path / "one" / FILE
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / FILE).write_bytes(path.read_bytes())
    with pytest.raises(DamagedFile, match=r"two/spent.json is that of one: restore it, or delete .*two, which"):
        through(dpo, tmp_path / "two")
    path.write_text(path.read_text().replace('"steps": 6', '"steps": 7', 1))
    with pytest.raises(DamagedFile, match=r"one/spent.json is damaged .*restore it, or delete .*one, which"):
        through(dpo, tmp_path / "one")


def test_two_trainings_of_one_block_add_up(tmp_path: Path) -> None:
    """Whatever their folders are called."""
    one = counts(through(dpo, tmp_path / "one"))
    with measured(tmp_path) as spent:
        for _ in range(2):
            dpo(tmp_path / "two", spent).train()
    assert counts(spent)["flops"] == {name: 2 * value for name, value in one["flops"].items()}
    assert counts(spent)["steps"] == 2 * STEPS


def test_time_before_a_kill_is_spent(tmp_path: Path) -> None:
    class Slow(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            time.sleep(0.5 if state.global_step == 1 else 0)

    saving = {"save_strategy": "steps", "save_steps": 2}
    with pytest.raises(Kill), measured(tmp_path) as spent:
        dpo(tmp_path, spent, Slow(), KillAt(3), **saving).train()
    steps = Clocks()
    with measured(tmp_path) as spent:
        dpo(tmp_path, spent, steps, **saving).train(resume_from_checkpoint=True)
    assert spent.cost().seconds > 0.5 + steps.taken[0]


def test_a_checkpoint_that_nobody_counted_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4}
    dpo(tmp_path, **saving).train()
    with measured() as spent, caplog.at_level(logging.WARNING):
        dpo(tmp_path, spent, **saving).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert "step 4 was reached without counting" in caplog.text
    assert counts(spent)["steps"] == 2


def test_transformers_must_not_put_another_callback_in_its_place(tmp_path: Path) -> None:
    with measured() as spent, pytest.raises(ValueError, match="restore_callback_states_from_checkpoint=True"):
        dpo(tmp_path, spent, restore_callback_states_from_checkpoint=True).train()


# ---- a budget ------------------------------------------------------------------------------------------------------


def test_training_ends_with_the_step_that_reaches_the_budget(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    totals: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            totals.append(spent.tally.total)

    with measured() as spent:
        dpo(tmp_path / "free", spent, Watch()).train()
    free = list(totals)
    assert len(free) == STEPS
    for budget, steps in ((free[2], 3), (free[2] + 1, 4), (1.0, 1), (2 * free[-1], STEPS)):
        with measured() as spent, caplog.at_level(logging.INFO):
            trainer = dpo(tmp_path / "ended", spent, Budget(spent.tally, budget))
            trainer.train()
        assert trainer.state.global_step == counts(spent)["steps"] == steps
        assert (f"training ends at step {steps}" in caplog.text) == (budget <= free[-1])
        caplog.clear()


@pytest.mark.parametrize("flops", [0.0, -1e9, float("nan")])
def test_a_budget_of_nothing_is_refused(flops: float) -> None:
    with pytest.raises(ValueError, match="leaves nothing for training"):
        Budget(FlopCounter(), flops)

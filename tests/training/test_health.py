"""What a trainer notes of its own run, says at its start and end, and refuses; and what any folder tells of a run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from prefopt import DPOConfig, DPOTrainer, PPOConfig, PPOTrainer, RewardConfig, RewardTrainer
from prefopt.doctor.checks import diagnose
from prefopt.models.weights import broken_weights
from prefopt.objectives.dpo import DPO
from prefopt.objectives.kto import KTO
from prefopt.testbed import preference_rows
from prefopt.training.row_figures import row_figures
from prefopt.training.run_files import FILE, STATE, read_run, runs_in
from tests.helpers.models import tiny_llama, untrained
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

PAIRS = ragged_pairs(12)
EOS = 1


def trainer_of(
    tmp_path: Path, tokenizer: Any, rows: Any = PAIRS, model: Any = None, ref: Any = None, **args: Any
) -> Any:
    given = {"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-3, **args}
    model = tiny_llama() if model is None else model
    return DPOTrainer(model, ref, DPOConfig(**quiet(tmp_path, **given)), None, rows, processing_class=tokenizer)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "prefopt.training.health"]


def noted(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "run" / FILE).read_text(encoding="utf-8"))


# ---- what is noted -------------------------------------------------------------------------------------------------


def test_the_first_step_and_the_log_are_noted(tmp_path: Path, tokenizer: Any) -> None:
    """With one log for three steps only the note says what the first step was: ln 2, log-ratios of 0."""
    trainer = trainer_of(tmp_path, tokenizer, logging_steps=3)
    trainer.train()
    note = noted(tmp_path)
    assert note["facts"]["first"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert note["facts"]["first"]["rewards/chosen"] == pytest.approx(0.0, abs=1e-6)
    assert [log["step"] for log in note["logs"]] == [3, 3]
    assert note["facts"]["moved"]["policy"] > 0.5 and note["facts"]["broken"] == []
    assert note["facts"]["settings"]["rows_per_step"] == 4 and note["facts"]["objective"]["beta"] == 0.1


def test_a_resumed_run_keeps_its_first_step(tmp_path: Path, tokenizer: Any) -> None:
    args = {"save_strategy": "steps", "save_steps": 2}
    trainer_of(tmp_path, tokenizer, max_steps=2, **args).train()
    first = noted(tmp_path)["facts"]["first"]
    trainer_of(tmp_path, tokenizer, max_steps=4, **args).train(resume_from_checkpoint=True)
    note = noted(tmp_path)
    assert note["facts"]["first"] == first
    assert [log["step"] for log in note["logs"] if "loss" in log] == [1, 2, 3, 4]


def test_a_run_that_was_killed_is_read_from_its_checkpoint(tmp_path: Path, tokenizer: Any) -> None:
    trainer_of(tmp_path, tokenizer, max_steps=2, save_strategy="steps", save_steps=2).train()
    (tmp_path / "run" / FILE).unlink()
    run = read_run(tmp_path / "run")
    assert len(run.series("loss")) == 2 and run.fact("objective", "name") == "DPO"


# ---- what is said --------------------------------------------------------------------------------------------------


def test_a_healthy_run_is_silent(tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    rows = Dataset.from_list(preference_rows(12, seed=0))
    trainer_of(tmp_path, tokenizer, rows, learning_rate=1e-4).train()
    assert said(caplog) == [] and diagnose(read_run(tmp_path / "run")) == []


def test_a_rate_of_zero_is_said_once_and_at_the_start(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_of(tmp_path, tokenizer, Dataset.from_list(preference_rows(12, seed=0)), learning_rate=0.0)
    trainer.health.begin(trainer.train_dataset, None, 4, resumed=False)
    assert said(caplog) == ["the learning rate is 0: nothing is learnt; set learning_rate"]
    caplog.clear()
    trainer.train()
    assert [text.partition(":")[0] for text in said(caplog)] == ["the learning rate is 0"]


def test_a_single_step_of_a_warm_up_is_said_before_it(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its rate is 0, whatever was asked for; with two steps the second one moves the weights."""
    rows = Dataset.from_list(preference_rows(12, seed=0))
    warmed = {"warmup_steps": 0.1, "lr_scheduler_type": "linear"}
    trainer = trainer_of(tmp_path / "one", tokenizer, rows, max_steps=1, **warmed)
    heard: list[list[str]] = []
    step = trainer.training_step
    trainer.training_step = lambda *args, **kwargs: heard.append(said(caplog)) or step(*args, **kwargs)
    trainer.train()
    assert heard == [said(caplog)] and said(caplog)[0].startswith("the learning rate is 0 in each step, as there are")
    caplog.clear()
    trainer_of(tmp_path / "two", tokenizer, rows, max_steps=2, learning_rate=1e-4, **warmed).train()
    assert said(caplog) == []


def test_another_reference_is_said(tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    trainer_of(tmp_path, tokenizer, ref=tiny_llama(seed=1)).train()
    assert any("away from its reference" in text for text in said(caplog))


def test_updates_lost_to_rounding_are_said(tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_llama(dtype=torch.bfloat16)
    trainer_of(tmp_path, tokenizer, model=model, float32_weights=False, learning_rate=1e-7).train()
    (text,) = [text for text in said(caplog) if "rounded away" in text]
    assert text.startswith("only ") and "train in bfloat16, in which a step of 1e-07" in text


def test_a_run_that_stopped_is_sick(tmp_path: Path, tokenizer: Any) -> None:
    trainer = trainer_of(tmp_path, tokenizer, learning_rate=1e30, max_steps=8)
    with pytest.raises(FloatingPointError):
        trainer.train()
    found = {sickness.name: sickness for sickness in diagnose(read_run(tmp_path / "run"))}
    assert "the gradient is not finite" in found["training_stopped"].text("zh")


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "place", "words"),
    [
        ("model.layers.1.mlp.up_proj.weight", (3, 5), r"1 of 2,048 numbers, row 3\)"),
        ("model.embed_tokens.weight", 7, r"32 of 32,000 numbers, row 7\)"),
    ],
)
def test_weights_broken_as_they_were_loaded_are_named(
    name: str, place: Any, words: str, tmp_path: Path, tokenizer: Any
) -> None:
    """Also a row of the embedding that no text reaches, with which training would end well."""
    model = tiny_llama()
    with torch.no_grad():
        model.get_parameter(name)[place] = math.nan
    with pytest.raises(
        ValueError, match=rf"the model has weights that are not finite as it was loaded \({name}: {words}"
    ):
        trainer_of(tmp_path, tokenizer, model=model)


def test_a_broken_reference_and_scorer_are_told_apart(tmp_path: Path, tokenizer: Any) -> None:
    reference = tiny_llama(seed=1)
    with torch.no_grad():
        reference.model.norm.weight[0] = math.inf
    with pytest.raises(ValueError, match="the reference has weights that are not finite"):
        trainer_of(tmp_path, tokenizer, ref=reference)


def test_what_is_broken_is_counted() -> None:
    whole, broken = torch.ones(3, 4), torch.ones(3, 4)
    broken[1, 2:] = math.nan
    assert broken_weights([("a", whole), ("b", broken), ("c", torch.ones(2, dtype=torch.int8))]) == {
        "b": "2 of 12 numbers, row 1"
    }


@pytest.mark.parametrize("kind", ["dpo", "reward"])
def test_pairs_that_are_all_the_same_ids_are_refused(kind: str, tmp_path: Path, tokenizer: Any) -> None:
    rows = Dataset.from_list([{"prompt_ids": [5, 6], "response_ids": [[7, 8], [7, 8]]}] * 4)
    args = quiet(tmp_path, max_steps=1)
    if kind == "dpo":
        trainer: Any = trainer_of(tmp_path, tokenizer, rows)
    else:
        trainer = RewardTrainer(tiny_llama(), RewardConfig(**args), None, rows, processing_class=tokenizer)
    with pytest.raises(ValueError, match="all 4 pairs have two responses that are the same ids, at max_length=1024"):
        trainer.train()


# ---- PPO's warm-up -------------------------------------------------------------------------------------------------


def test_one_rollout_is_the_policys(tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The critic would have had all four steps to itself."""
    sizes = {"max_steps": 4, "num_mini_batches": 4, "per_device_train_batch_size": 2, "max_new_tokens": 6}
    args = PPOConfig(**quiet(tmp_path, **sizes, learning_rate=1e-3))
    rows = Dataset.from_list(preference_rows(8, seed=3))
    scorer = lambda prompts, responses: [float(len(text)) for text in responses]  # noqa: E731
    trainer = PPOTrainer(untrained(tokenizer), args, None, rows, processing_class=tokenizer, scorer=scorer)
    trainer.train()
    assert (
        "critic_pretrain_steps=50 is more than half of 4 steps: the critic learns alone in 0 of them at most, whole "
        "rollouts of 4 steps, and the policy in 4 at least" in caplog.text
    )
    assert noted(tmp_path)["facts"]["moved"]["policy"] > 0.5


def test_a_policy_that_would_only_begin_to_warm_up_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    """Of two rollouts of one step the critic may have the first, and the first of a warm-up has a rate of 0."""
    sizes = {"max_steps": 2, "num_mini_batches": 1, "per_device_train_batch_size": 2}
    args = PPOConfig(**quiet(tmp_path, **sizes, lr_scheduler_type="inverse_sqrt"))
    rows = Dataset.from_list(preference_rows(4, seed=3))
    trainer = PPOTrainer(
        untrained(tokenizer),
        args,
        None,
        rows,
        processing_class=tokenizer,
        scorer=lambda prompts, said: [0.0] * len(said),
    )
    with pytest.raises(ValueError, match=r"learn in only 1 of 2 steps, in which warmup_steps=0.1 leaves its learning"):
        trainer.train()


# ---- rows ----------------------------------------------------------------------------------------------------------


def test_cues_and_lost_ends_are_counted(tokenizer: Any) -> None:
    """Of five pairs token 9 tells three and misleads in one, and one is equal; four of ten responses have no end."""
    pairs = [
        [[9, 7, EOS], [7, EOS]],
        [[9, 9, 8], [8, EOS]],
        [[9, 6, EOS], [5, 5, 5, 5]],
        [[7, 8, 6], [7, 8, 6]],
        [[6, EOS], [9, 6, EOS]],
    ]
    rows = Dataset.from_list([{"prompt_ids": [5], "response_ids": responses} for responses in pairs])
    figures = row_figures(rows, DPO(), tokenizer, {EOS})
    assert figures == {
        **{"responses": 10, "without_end": 4, "pairs": 5, "same": 1, "unequal": 4, "longer": 2},
        **{"told": 2, "cue": tokenizer.decode([9]), "cue_in": "chosen"},
    }
    assert row_figures(rows, KTO(), tokenizer, {EOS}) == {"responses": 10, "without_end": 4}
    assert row_figures(None, DPO(), tokenizer, {EOS}) == row_figures(rows.select([]), DPO(), tokenizer, {EOS}) == {}


# ---- folders -------------------------------------------------------------------------------------------------------


def state(folder: Path, losses: list[float]) -> None:
    folder.mkdir(parents=True)
    logs = [{"step": 10 * (i + 1), "loss": loss} for i, loss in enumerate(losses)]
    (folder / STATE).write_text(json.dumps({"log_history": logs}))


def test_every_run_of_a_folder_is_found(tmp_path: Path) -> None:
    state(tmp_path / "train" / "dpo-0" / "run", [0.69, 0.6])
    state(tmp_path / "reward" / "0" / "run", [0.69, 0.5])
    state(tmp_path / "reward" / "0" / "run" / "checkpoint-20", [0.69])
    (tmp_path / "report").mkdir()
    names = [name for name, _ in runs_in(tmp_path)]
    assert names == ["reward/0/run", "train/dpo-0/run"]
    assert [name for name, _ in runs_in(tmp_path / "reward" / "0" / "run" / "checkpoint-20")] == ["."]


@pytest.mark.parametrize(("made", "message"), [(False, "no such folder"), (True, "holds no run, which has one of")])
def test_a_folder_without_a_run_is_an_error(made: bool, message: str, tmp_path: Path) -> None:
    if made:
        (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match=f"x:? {message}"):
        runs_in(tmp_path / "x")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError, match=rf"{FILE}: not (a )?JSON"):
        runs_in(tmp_path)

"""Plans of rounds: a round does what all do, with what it says otherwise; what cannot be is refused in words."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefopt.compare.plan import PlanError
from prefopt.rounds import RoundsPlan, read_rounds_plan, rounds_plan_from
from prefopt.rounds.tasks import RoundTasks, stream_seed

EXAMPLES = Path(__file__).parents[2] / "examples/rounds"
PLAN: dict[str, Any] = {
    "policy": "testbed",
    "data": "testbed",
    "sft": {"max_steps": 2},
    "training": {"learning_rate": 1e-3, "max_new_tokens": 8},
    "round": {
        "prompts": {"label": 8, "sample": 8},
        "label": {"by": "testbed"},
        "reward": {"max_steps": 2},
        "sample": {"responses_per_prompt": 2},
        "train": {"method": "rejection-sampling", "max_steps": 3},
    },
    "rounds": 2,
}


def plan(**changes: Any) -> RoundsPlan:
    return rounds_plan_from({**PLAN, **changes})


def in_round(**stages: Any) -> dict[str, Any]:
    return {"round": {**PLAN["round"], **stages}}


def test_a_round_is_what_all_are_with_what_it_says_otherwise() -> None:
    first, second, third = plan(
        rounds=[{}, {"prompts": {"sample": 4}, "label": None}, {"train": [{}, {"method": "dpo", "beta": 0.3}]}]
    ).each
    assert (first.prompts.label, first.prompts.sample) == (8, 8)
    assert (second.prompts.label, second.prompts.sample) == (8, 4)
    assert first.label is not None and second.label is None
    assert [stage.method for stage in third.train] == ["rejection-sampling", "dpo"]
    likelihood, dpo = third.train
    assert (likelihood.init, dpo.init) == ("base", "previous")
    assert (likelihood.responses, dpo.responses) == (1, 2)
    assert likelihood.settings["learning_rate"] == dpo.settings["learning_rate"] == 1e-3
    assert dpo.settings["beta"] == 0.3 and "max_steps" not in dpo.settings
    assert first.train[0].settings["max_steps"] == 3
    assert first.reward is not None and first.reward.settings == {"learning_rate": 1e-3, "max_steps": 2}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (in_round(prompts={"label": 0, "sample": 8}), "of how many prompts"),
        (in_round(reward=None), "no reward model"),
        (in_round(sample=None), "rows: labels"),
        (in_round(label=None), "no labels to learn from"),
        (in_round(train={"method": "dpoo"}), "did you mean dpo"),
        (in_round(train={"learning_rat": 1}), "did you mean learning_rate"),
        (in_round(train={"init": "v2"}), "v2 is not there yet in round 1"),
        (in_round(train={"rows": "all"}), "choose selected or labels"),
        (in_round(label={"by": "testbed", "policies": ["previous"]}), "give two of each"),
        (in_round(label={"by": "testbed", "held_out": 1}), "must lie in"),
        (in_round(select={"of": "best"}), "choose all or last"),
        (in_round(sample={"temperature": -1}), "temperature"),
        (in_round(reward={"mix": {"new": -1}}), "weights are 0 or more"),
        (in_round(rewards={}), "did you mean reward"),
        ({"rounds": []}, "give how many"),
        ({"rounds": [{"lable": None}]}, "rounds: 1: there is no stage 'lable'"),
        ({"sft": None}, "knows nothing before `sft`"),
        ({"policy": "owner/model", "data": {"train": "owner/rows"}, "sft": None}, "`test` is missing"),
        ({"seeds": [1]}, "unknown key 'seeds'"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        RoundTasks(plan(**changes)).report_tasks()


def test_the_plan_that_is_written_is_the_plan_that_was_read(tmp_path: Path) -> None:
    made = plan(rounds=[{}, {"train": [{"method": "dpo", "reference": "base"}]}], seed=3)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(made.plain()))
    assert read_rounds_plan(tmp_path / "plan.yaml") == made


def test_no_two_stages_have_the_same_random_numbers() -> None:
    tasks = RoundTasks(plan(rounds=4)).report_tasks()
    every = {needed.key: needed for task in tasks for needed in (*task.dependencies(), task)}
    streams = [task.inputs["stream"] for task in every.values() if "stream" in task.inputs]
    assert len(streams) == len(set(streams)) > 25
    assert stream_seed(0, 1, "train") != stream_seed(1, 1, "train")


def test_a_change_makes_anew_what_depends_on_it_and_nothing_else() -> None:
    def keys(made: RoundsPlan) -> dict[str, str]:
        tasks = RoundTasks(made).report_tasks()
        return {task.label: task.key for task in (t for each in tasks for t in (*each.dependencies(), each))}

    before = keys(plan())
    longer = keys(plan(rounds=3))
    assert {label: longer[label] for label in before if "rank" not in label} == {
        label: key for label, key in before.items() if "rank" not in label
    }
    other = keys(plan(rounds=[{}, {"train": {"learning_rate": 5e-4}}]))
    assert {label for label in before if other.get(label) != before[label]} == {
        "v2 train 1-rejection-sampling",
        "v2 evaluate",
        "v2 rescore by-v1",
        "v2 rescore by-v2",
    }


def test_a_training_begins_where_the_plan_says() -> None:
    tasks = RoundTasks(
        plan(
            rounds=[
                {},
                {"train": [{}, {"method": "dpo", "reference": "base"}, {"method": "ipo", "init": "v1"}]},
                {"train": {"init": "previous"}},
            ]
        )
    )
    (first,), (best, dpo, ipo), (last,) = (tasks.trainings(number) for number in (1, 2, 3))
    assert first.needs["policy"] is tasks.start and best.needs["policy"] is tasks.start
    assert dpo.needs["policy"].key == best.key and dpo.needs["ref_model"] is tasks.start
    assert ipo.needs["policy"].key == first.key and "ref_model" not in ipo.needs
    assert last.needs["policy"].key == ipo.key == tasks.policy_of(2).key
    assert tasks.pool(3).needs["policy"].key == ipo.key  # type: ignore[union-attr]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_plans_of_the_examples_can_be_carried_out(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("prompts.jsonl", "held_out.jsonl"):
        (tmp_path / name).write_text('{"prompt": "Hello?"}\n')
    monkeypatch.chdir(tmp_path)
    made = read_rounds_plan(path)
    tasks = RoundTasks(made).report_tasks()
    assert {task.place for task in tasks} >= {f"rlhf-v{n}" for n in range(1, len(made.each) + 1)}  # type: ignore[attr-defined]
    assert math.isfinite(len(tasks))


def test_what_people_are_asked_keeps_its_folder() -> None:
    """Labels that arrived lie in it: other inputs of the task would leave them where nobody looks."""
    tasks = RoundTasks(plan(**in_round(label={"by": "people"})))
    assert set(tasks.ask(1).inputs) == {"count", "lang", "include_truncated", "stream"}
    search = RoundTasks(plan(**in_round(sample={"temperatures": [0.7, 1.0]}))).search(1)
    assert search is not None and "include_truncated" not in search.inputs


def test_one_temperature_is_not_searched_and_evaluation_is_as_long_as_training() -> None:
    made = plan(**in_round(sample={"responses_per_prompt": 2, "temperatures": [0.7]}))
    (first, _) = made.each
    assert first.sample is not None and first.sample.temperatures == ()
    assert first.sample.settings["temperature"] == 0.7 and RoundTasks(made).search(1) is None
    assert made.evaluation.max_new_tokens == 8
    assert plan(evaluation={"max_new_tokens": 16, "prompts": 4}).evaluation.max_new_tokens == 16
    with pytest.raises(PlanError, match="search_prompts=1: temperatures are told apart by 2 prompts or more"):
        len(plan(**in_round(sample={"temperatures": [0.7, 1.0], "search_prompts": 1})).each)
    with pytest.raises(PlanError, match="^rounds: 1: train: there is no method 'dpoo'"):
        len(plan(**in_round(train={"method": "dpoo"})).each)

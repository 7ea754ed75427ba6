"""Tasks and their keys: a change makes anew what it touches, and nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefopt.compare.plan.plan import Evaluation, Plan, PlanError, plan_from
from prefopt.compare.run.hyperparameter_grid import choose_best, trials
from prefopt.compare.run.tasks import Tasks, check_training, contents_of
from prefopt.tasks import in_order
from prefopt.utils import jsonl

PLAN = plan_from(
    {
        "policy": "testbed",
        "data": "testbed",
        "sft": {"learning_rate": 1e-3},
        "reward": {"learning_rate": 1e-3},
        "methods": {"dpo": {"beta": 0.1}, "ipo": {}, "rrhf": {}, "ppo-max": {}, "best-of-n": {"n": 4}},
        "training": {"max_length": 99},
        "seeds": [0, 1],
    }
)


def keys(plan: Plan) -> dict[str, set[str]]:
    """Kind of task -> keys of all that the plan needs."""
    tasks = Tasks(plan)
    asked = [tasks.evaluate(spec, seed) for spec in plan.method_specs.values() for seed in plan.seeds]
    found: dict[str, set[str]] = {}
    for task in in_order([*asked, *(task for seed in plan.seeds if (task := tasks.evaluate_reward_model(seed)))]):
        found.setdefault(task.kind, set()).add(task.key)
    return found


def changed(plan: Plan) -> set[str]:
    """The kinds of tasks that this plan needs and PLAN does not."""
    before, after = keys(PLAN), keys(plan)
    return {kind for kind in after if after[kind] - before.get(kind, set())}


@pytest.mark.parametrize(
    ("plan", "anew"),
    [
        (replace(PLAN, title="other", judges=("gold",)), set()),
        (replace(PLAN, evaluation=Evaluation(responses_per_prompt=9)), {"evaluate"}),
        (replace(PLAN, evaluation=Evaluation(prompts=9)), {"held_out", "reference_pairs", "evaluate", "rank"}),
        (replace(PLAN, methods={**PLAN.methods, "dpo": {"beta": 0.2}}), {"train", "evaluate"}),
        (replace(PLAN, methods={**PLAN.methods, "simpo": {}}), {"train", "evaluate"}),
        (replace(PLAN, reward={"learning_rate": 2e-3}), {"reward", "rank", "train", "evaluate"}),
    ],
)
def test_a_change_makes_anew_what_it_touches(plan: Plan, anew: set[str]) -> None:
    assert changed(plan) == anew


def test_another_seed_needs_its_own_stages_and_leaves_the_others_alone() -> None:
    more = keys(replace(PLAN, seeds=(0, 1, 2)))
    for kind, there in keys(PLAN).items():
        assert there < more[kind], kind
    one = keys(replace(PLAN, seeds=(0, 1, 2), one_stage=True))
    assert len(one["sft"]) == len(one["reward"]) == 1 and len(one["train"]) == 3 * 4


def test_stages_are_shared() -> None:
    found = keys(PLAN)
    assert {kind: len(each) for kind, each in found.items()} == {
        "rows": 2,
        "held_out": 2,
        "sft": 2,
        "encode": 2,
        "reward": 2,
        "reference": 2,  # DPO's and IPO's
        "rank": 2,
        "train": 8,
        "reference_pairs": 2,  # of the held-out pairs, for all
        "evaluate": 12,
    }
    alone = keys(replace(PLAN, methods={"dpo": {}}))
    assert "reference" not in alone  # one method makes its own pass


def test_a_variable_of_the_chat_template_is_a_setting_of_encoding() -> None:
    kwargs = {"enable_thinking": False}
    tasks = Tasks(replace(PLAN, training={**PLAN.training, "chat_template_kwargs": kwargs}))
    check_training(tasks.plan)
    for task in (tasks.evaluate(tasks.plan.method_specs["dpo"], 0), tasks.reference_pairs(0)):
        assert task.inputs["settings"]["chat_template_kwargs"] == kwargs
    assert tasks.encode(0, tasks.plan.training).inputs["settings"]["chat_template_kwargs"] == kwargs


def test_names_of_folders_are_plain(tmp_path: Path) -> None:
    plan = replace(PLAN, methods={"../长 dpo": {"method": "dpo"}})
    task = Tasks(plan).evaluate(plan.method_specs["../长 dpo"], 0)
    folder = task.folder(tmp_path)
    assert folder.resolve().is_relative_to(tmp_path.resolve()) and folder.parent.name == "evaluate"


def test_a_stage_that_no_seed_changes_is_one() -> None:
    data = {"train": "owner/a", "test": "owner/b"}
    plan = plan_from({"policy": "m", "data": data, "methods": {"dpo": {}, "ipo": {}}, "seeds": [0, 1]})
    assert {kind: len(each) for kind, each in keys(plan).items()} == {
        "rows": 1,
        "held_out": 1,
        "encode": 1,
        "reference": 1,
        "train": 4,
        "reference_pairs": 1,
        "evaluate": 6,
    }


def test_a_second_method_does_not_make_the_first_anew() -> None:
    """DPO alone runs its own reference; with IPO beside it there is a shared one, which changes no result."""
    assert keys(replace(PLAN, methods={"dpo": {"beta": 0.1}}))["train"] < keys(PLAN)["train"]


def test_a_model_is_known_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = contents_of(str(tmp_path))
    (tmp_path / "model.safetensors").write_text("x")
    assert contents_of(str(tmp_path)) != before
    before = contents_of(str(tmp_path))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert contents_of(str(tmp_path)) != before
    assert contents_of("owner/name") == ["owner/name"]
    with pytest.raises(PlanError, match="no such file"):
        contents_of("rows/pairs.jsonl")


def test_settings_that_nothing_has_are_refused() -> None:
    for plan, message in (
        (replace(PLAN, sft={"learning_rat": 1}), "sft: there is no setting 'learning_rat'; did you mean learning_rate"),
        (replace(PLAN, reward={"beta": 1}), "reward: there is no setting 'beta'"),
    ):
        with pytest.raises(PlanError, match=message):
            Tasks(plan)
    with pytest.raises(PlanError, match="training: there is no setting 'max_lenght'; did you mean max_length"):
        check_training(replace(PLAN, training={"max_lenght": 1}))


def test_who_draws_needs_a_reward_model() -> None:
    plan = replace(PLAN, reward=None)
    with pytest.raises(PlanError, match="give the plan a `reward`"):
        Tasks(plan).train(plan.method_specs["ppo-max"], 0)
    for name in ("dpo", "ipo"):
        assert Tasks(plan).train(plan.method_specs[name], 0)


# ---- settings to choose from ---------------------------------------------------------------------------------------


def gridded(**grid: Any) -> Plan:
    given = {"methods": {"dpo": {"beta": [0.1, 0.2, 0.5]}, "rrhf": {"learning_rate": [1e-4, 1e-3]}}, "trials": 2}
    return plan_from({**PLAN.plain(), "grid": {**given, **grid}})


def test_every_method_gets_as_many_trials() -> None:
    plan = gridded()
    found = trials(plan, Tasks(plan))
    assert [trial.name for trial in found] == ["dpo", "dpo", "rrhf", "rrhf"]
    assert len({trial.task.key for trial in found}) == 4
    assert found == trials(plan, Tasks(plan))


def test_a_grid_that_cannot_be() -> None:
    for plan, message in (
        (gridded(trials=3), "rrhf has 2 combinations, and every method gets 3 trials"),
        (gridded(methods={"dpoo": {"beta": [1]}}, trials=1), "'dpoo' is none of the plan's; did you mean dpo"),
        (gridded(methods={"dpo": {"beta": 1}}, trials=1), "write a list of values"),
        (gridded(methods={"dpo": {"betta": [1]}}, trials=1), "no setting 'betta'"),
        (replace(gridded(), reward=None), "give the plan a `reward`"),
    ):
        with pytest.raises(PlanError, match=message):
            trials(plan, Tasks(plan))


def test_the_best_trial_is_taken_and_its_training_is_the_methods_own(tmp_path: Path) -> None:
    plan = gridded()
    tried = trials(plan, Tasks(plan))
    for trial, score in zip(tried, (0.3, 0.7), strict=False):  # of RRHF's none is done
        jsonl.replace(trial.task.folder(tmp_path) / "done.json", [{"score": score}])
    chosen = choose_best(plan, tried, tmp_path)
    assert chosen.methods["dpo"] == {"beta": tried[1].settings["beta"]}
    assert chosen.methods["rrhf"] == {}
    trained = Tasks(chosen).train(chosen.method_specs["dpo"], plan.seeds[0])["train"]
    assert trained.key == tried[1].task.needs["train"].key

"""A plan, from YAML to checked values: what is wrong in it is said before anything is begun."""

from pathlib import Path
from typing import Any

import pytest

from prefopt.compare.plan.method_spec import make_method_spec
from prefopt.compare.plan.plan import Plan, PlanError, plan_from, read_plan

FILES: dict[str, Any] = {"policy": "m", "data": {"train": "a.jsonl", "test": "b.jsonl"}, "methods": {"dpo": {}}}
WORLD: dict[str, Any] = {"policy": "testbed", "data": "testbed", "sft": {}, "methods": ["dpo"]}


def written(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_a_file_is_a_plan(tmp_path: Path) -> None:
    text = """\
        policy: m
        data: {train: a.jsonl, test: b.jsonl, choices: [c.csv]}
        methods:
          dpo: {learning_rate: 5e-7}
          长: {method: dpo, beta: 1}
        seeds: [3, 4]
        budget: {flops: 1e15}
        evaluation: {prompts: 9}
    """
    plan = read_plan(written(tmp_path / "plan.yaml", text))
    assert plan.methods["dpo"]["learning_rate"] == 5e-7  # which YAML alone reads as text
    assert plan.seeds == (3, 4) and plan.budget is not None and plan.budget.flops == 1e15
    assert plan.data.choices == ("c.csv",) and plan.evaluation.prompts == 9
    assert list(plan.method_specs) == ["sft", "dpo", "长"]
    assert plan.method_specs["长"].arguments["beta"] == 1


def test_a_plan_goes_through_yaml_unchanged(tmp_path: Path) -> None:
    import yaml

    plan = plan_from({**FILES, "grid": {"methods": {"dpo": {"beta": [0.1, 0.2]}}, "trials": 2}, "seeds": [1]})
    path = written(tmp_path / "plan.yaml", yaml.safe_dump(plan.plain(), allow_unicode=True))
    assert read_plan(path) == plan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"polcy": "x"}, "unknown key 'polcy'; did you mean policy"),
        ({"data": {"train": "a"}}, "`test` is missing"),
        ({"data": {"train": "a", "test": "b", "tset": "c"}}, "data: unknown key 'tset'; did you mean test"),
        ({"seeds": []}, "give one or more, each once"),
        ({"seeds": [1, 1]}, "give one or more, each once"),
        ({"seeds": ["x"]}, r"seeds expects a list of integers, not \['x'\]"),
        ({"evaluation": {"prompts": 0}}, "prompts=0 must be at least 1"),
        ({"evaluation": {"prompts": True}}, "prompts expects an integer, not True"),
        ({"sft": {}}, "give data a `demonstrations`"),
        ({"model": {"lora_rr": 3}}, "model: unknown key 'lora_rr'; did you mean lora_r"),
        ({"judges": ["gold"]}, "known in the synthetic task alone"),
        ({"judges": [len]}, "no text and no mapping"),
        ({"policy": "testbed"}, "policy: testbed is the small world's own.*with your own data, name a model"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan_from({**FILES, **changes})


def test_a_file_that_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="A plan is a YAML file with at least"):
        read_plan(written(tmp_path / "a.yaml", "- dpo"))
    with pytest.raises(PlanError, match=r"b\.yaml:1: not valid YAML"):
        read_plan(written(tmp_path / "b.yaml", "a: ["))


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"dpoo": {}}, "no method 'dpoo'; did you mean dpo"),
        ({"rejection_sampling": {}}, "did you mean rejection-sampling"),
        ({"mine": {"method": "ppo-mx"}}, "mine: there is no method 'ppo-mx'; did you mean ppo-max"),
        ({"dpo": {"betta": 1}}, "dpo: there is no setting 'betta'; did you mean beta"),
        ({"reward": {}}, "which is a stage"),
        ({"dpo": {"seed": 3}}, "seed is decided by the comparison"),
        ({"sft": {"method": "dpo"}}, "this name is taken"),
        ({"reward-model": {"method": "dpo"}}, "this name is taken"),
        ({"best-of-n": {"n": 1}}, "n=1; the best of how many"),
        ({"best-of-n": {"beta": 1}}, "trains nothing and has no setting 'beta'"),
        ({"ppo-max": {"scorer": False}}, "something has to score"),
        ({"rrhf": {"scorer": "x"}}, "true or false"),
        ({"dpo": [1]}, "write its settings as"),
        ({"no.such.module": {}}, "no method 'no.such.module'"),
    ],
)
def test_a_method_that_is_none(methods: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        _ = plan_from({**FILES, "methods": methods}).method_specs


def test_the_others_can_go_on_without_it() -> None:
    plan, wrong = plan_from({**FILES, "methods": {"dpoo": {}, "ipo": {}}}).without_unknown()
    assert list(plan.methods) == ["ipo"]
    assert "did you mean dpo" in wrong["dpoo"]


def test_names_stand_for_settings_and_settings_for_all_reach_who_has_them() -> None:
    common = {"max_length": 99, "responses_per_prompt": 3}
    simpo = make_method_spec("simpo", {"learning_rate": 1e-3}, common)
    assert simpo.arguments["loss_type"] == ["simpo"] or simpo.arguments["loss_type"] == "simpo"
    assert simpo.arguments["max_length"] == 99 and "responses_per_prompt" not in simpo.arguments
    assert make_method_spec("rrhf", {}, common).arguments["responses_per_prompt"] == 3
    assert make_method_spec("ppo", {}, {}).arguments["kl_coef"] == 0.0
    assert make_method_spec("rrhf", {"scorer": False}, common).arguments == {"max_length": 99}  # it draws nothing


def test_who_needs_the_reward_model() -> None:
    names = ("sft", "best-of-n", "dpo", "rrhf", "ppo-max")
    assert {name: make_method_spec(name, {}, {}).needs_reward_model for name in names} == {
        "sft": False,
        "best-of-n": True,
        "dpo": False,
        "rrhf": True,
        "ppo-max": True,
    }
    assert not make_method_spec("rrhf", {"scorer": False}, {}).needs_reward_model


def test_a_strangers_method_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """\
from dataclasses import dataclass
from prefopt import Loss, Objective
from prefopt.objectives import Term

@dataclass(frozen=True, kw_only=True)
class Mine(Objective):
    weight: float = 1.0
    responses = 2

    def loss(self, out, batch):
        return Loss({"mine": Term(self.weight * -out.logps[:, 0].sum(), "prompts")})

NAMES = {"mine": Mine()}
"""
    (tmp_path / "stranger_one.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    spec = make_method_spec("mine", {"method": "stranger_one:mine", "weight": 2.0, "learning_rate": 1e-3}, {})
    assert spec.trains and spec.trainer is None and spec.source_fingerprint
    from prefopt.compare.plan.method_spec import objective_of

    assert objective_of(spec).weight == 2.0  # type: ignore[attr-defined]
    with pytest.raises(PlanError, match="did you mean weight"):
        make_method_spec("mine", {"method": "stranger_one:mine", "wieght": 2.0}, {})


def test_the_small_world_needs_its_stages() -> None:
    assert isinstance(plan_from(WORLD), Plan)
    with pytest.raises(PlanError, match="knows nothing before `sft`"):
        plan_from({**WORLD, "sft": None})

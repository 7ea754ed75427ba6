"""YAML whose aliases multiply: refused by line, and no message grows with what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefopt.compare.plan.plan import PlanError, plan_from, read_plan
from prefopt.utils.settings import MOST_VALUES, SettingsError, read_yaml

LEVELS = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 9))


def written(folder: Path, content: str) -> Path:
    (folder / "plan.yaml").write_text(content)
    return folder / "plan.yaml"


def test_aliases_that_multiply_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, f"l0: &l0 [{', '.join(['word'] * 9)}]\n{LEVELS}\n")
    with pytest.raises(SettingsError, match=r"plan.yaml:6: what begins here stands for more than 100,000 values") as e:
        read_yaml(path)  # 9 ** 6 of them begin on line 6; line 5 has fewer
    assert 9**5 < MOST_VALUES < 9**6 and len(str(e.value)) < 300
    with pytest.raises(PlanError, match="stands for more than"):
        read_plan(path)


def test_an_alias_of_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="plan.yaml:2: what begins here holds itself"):
        read_yaml(written(tmp_path, "a: 1\nb: &b [1, *b]\n"))


def test_aliases_of_a_plan_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, "a: &a {beta: 0.1}\nb: *a\nc: [*a, *a]\n<<: {d: 1}\n")
    assert {name: value for name, (value, _) in read_yaml(path).items()} == {
        "a": {"beta": 0.1},
        "b": {"beta": 0.1},
        "c": [{"beta": 0.1}] * 2,
        "d": 1,
    }


@pytest.mark.parametrize(
    "plan",
    [
        {"policy": "p", "data": {"train": "t", "test": "t"}, "methods": {"dpo": ["word"] * 90_000}},
        {"policy": ["word"] * 90_000, "data": {"train": "t", "test": "t"}, "methods": {}},
        {"policy": "p", "data": {"train": "t", "test": "t"}, "methods": {}, "judges": [["word"] * 90_000]},
        {"policy": "p", "data": "word" * 90_000, "methods": {}},
        {"policy": "p", "data": {"train": "t", "test": "t"}, "methods": {"best-of-n": {"n": "9" * 90_000}}},
    ],
)
def test_no_message_grows_with_a_value(plan: dict[str, object]) -> None:
    with pytest.raises(PlanError) as caught:
        list(plan_from(plan).method_specs)
    assert len(str(caught.value)) < 600

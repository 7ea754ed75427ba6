"""What the README and the pages of docs/ show by example works: a method of your own, a plan; their commands exist."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from prefopt import PreferenceConfig, PreferenceTrainer
from prefopt.compare import read_plan
from prefopt.compare.plan.method_spec import make_method_spec
from prefopt.objectives.base import load
from tests.helpers.models import tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
METHOD, PLAN = r"```python\n(# my_simpo\.py.*?)```", r"```yaml\n(# plan\.yaml.*?)```"


def example(pattern: str) -> str:
    """An example of the pages, which is the same wherever it stands, but for its comments."""
    found = re.findall(pattern, TEXT, re.S)
    assert len({re.sub(r"#.*", "", each) for each in found}) == 1, f"{len(found)} examples"
    return found[0]


def test_a_method_of_your_own_is_one_file(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages' SimPO, in a file of its own, gives the same loss as the built-in one."""
    block = example(METHOD)
    (name,) = re.findall(r'objective="(.*?)"', block)
    (tmp_path / "my_simpo.py").write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = ragged_pairs(8)

    def loss(objective: str) -> float:
        config = PreferenceConfig(**quiet(tmp_path, max_steps=1))
        trainer = PreferenceTrainer(tiny_llama(), objective, config, rows, rows, tokenizer)
        trainer.train()
        return trainer.evaluate()["eval_loss"]

    assert load(name).responses == 2
    assert loss(name) == pytest.approx(loss("simpo"), rel=1e-6)
    sys.modules.pop("my_simpo")


def test_the_plan_can_be_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method of the pages' plan is one, with settings that it has, those of the grid too."""
    (tmp_path / "my_simpo.py").write_text(example(METHOD))
    (tmp_path / "plan.yaml").write_text(example(PLAN))
    monkeypatch.syspath_prepend(str(tmp_path))
    found = read_plan(tmp_path / "plan.yaml")
    assert list(found.method_specs) == ["sft", "dpo", "simpo", "mine", "best-of-n", "ppo-max"]
    assert found.grid is not None
    for name, values in found.grid.methods.items():
        assert make_method_spec(
            name, {**found.methods[name], **{key: each[0] for key, each in values.items()}}, found.training
        )
    sys.modules.pop("my_simpo")


def test_unknown_names_are_helped() -> None:
    with pytest.raises(ValueError, match="did you mean simpo"):
        load("sinpo")
    with pytest.raises(ModuleNotFoundError):
        load("no_such_package.method")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"\b(?!VLLM_)[A-Z]{3,}_[A-Z_]{3,}\b", text.replace("PREFOPT_", "").replace("JSON_MIN", "")), (
        "a placeholder was left"
    )
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)) <= targets


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readme_is_short(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 150

"""The tables of reference are true: options of other libraries, papers, words, and what is said of each public name."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, Field, fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trl

import prefopt
from prefopt.cli.commands import all_commands
from prefopt.objectives.base import registry
from prefopt.training.trl_settings import SETTINGS, TRAINER_ARGUMENTS
from tests.helpers.imports import FILES, PACKAGE

DOCS = Path(__file__).parent.parent / "docs"
CONFIGS = [
    *(getattr(prefopt, name) for name in prefopt.__all__ if name.endswith("Config")),
    prefopt.ScriptArguments,
    import_module("prefopt.training.arguments").ScorerArguments,
]
OPTIONS: dict[str, list[Field[Any]]] = {}
for config in CONFIGS:
    for option in fields(config):
        OPTIONS.setdefault(option.name, []).append(option)
OTHERS = {"compute_metrics", "prompt_ids", "response_ids", "best_of_n", "PPOTrainer", "chat_template_path"}
"""Names in the column `here` that are no options: arguments of trainers, columns, functions."""
NAME = re.compile(r"`(\w+)`")
SAID = {
    "lora_alpha": 32,
    "num_ppo_epochs": 1,
    "kl_coef": 0.05,
    "lam": 0.95,
    "cliprange": 0.2,
    "cliprange_value": 0.2,
    "reward_clip": 0.8,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-6,
    "target_kl": None,
    "reward_norm": "norm",
    "warmup_steps": 0.1,
    "simpo_gamma": None,
}
"""Option -> the default that the tables of other libraries name."""
STUBS = sorted(PACKAGE.rglob("__init__.pyi"))


def text(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def rows(name: str) -> list[list[str]]:
    lines = [line for line in text(name).splitlines() if line.startswith("| ") and not set(line) <= set("|-: ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# ---- other libraries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["coming-from.md", "coming-from.zh.md"])
def test_what_an_option_of_others_is_here_is_an_option_here(name: str) -> None:
    named = {option for row in rows(name) if len(row) == 3 for option in NAME.findall(row[1])}
    known = {*OPTIONS, *OTHERS, *all_commands(), *registry(), *TRAINER_ARGUMENTS}
    last = {"full", "attention", "forward"}
    assert named and {each for each in named if each not in known | last} <= differences(name), named - known


def differences(name: str) -> set[str]:
    """What stands in the middle of the table of differences, which is of behaviour and not of options."""
    (table,) = re.findall(r"\n\| \| TRL 1\.16 .*?\n\n", text(name), re.S)
    return set(NAME.findall(table))


def test_defaults_that_are_compared_are_those_of_here() -> None:
    for name, said in SAID.items():
        defaults = [option.default for option in OPTIONS[name] if option.default is not MISSING]
        assert said in defaults, name


def test_every_setting_of_trl_that_is_not_here_is_explained() -> None:
    """All but three, of which the rows about packing and shuffling speak."""
    first = {name for row in rows("coming-from.md") for name in NAME.findall(row[0])}
    assert set(SETTINGS) | set(TRAINER_ARGUMENTS) <= first | {"eval_packing", "shuffle_dataset"}


def test_trl_has_what_is_said_of_it() -> None:
    theirs = {option.name for kind in (trl.SFTConfig, trl.DPOConfig, trl.RewardConfig) for option in fields(kind)}
    theirs |= set(inspect.signature(trl.DPOTrainer.__init__).parameters)
    theirs |= set(inspect.signature(trl.SFTTrainer.__init__).parameters)
    theirs |= set(inspect.signature(import_module("transformers").Trainer.__init__).parameters)
    section = text("coming-from.md").split("## TRL")[1].split("What is otherwise")[0]
    first = {
        name for line in section.splitlines() if line.startswith("| `") for name in NAME.findall(line.split("|")[1])
    }
    gone = {"rpo_alpha", "PPOTrainer", "BestOfNSampler"}
    assert {name for name in first - gone if name not in theirs and not hasattr(trl, name)} == set()
    assert not any(hasattr(trl, name) for name in gone) and "rpo_alpha" not in theirs


# ---- papers, words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["papers.md", "papers.zh.md"])
def test_every_paper_that_the_code_names_is_listed_with_modules_that_exist(name: str) -> None:
    named = {found for path in FILES for found in re.findall(r"arXiv:(\d{4}\.\d{5})", path.read_text("utf-8"))}
    assert set(re.findall(r"\[(\d{4}\.\d{5})\]\(https://arxiv\.org/abs/\1\)", text(name))) == named
    modules = set(re.findall(r"`(prefopt(?:\.\w+)+)`", text(name)))
    assert modules and all(find_spec(module) is not None for module in modules)


def test_the_glossary_has_each_word_once_in_both_languages() -> None:
    english, chinese = (rows(name)[1:] for name in ("glossary.md", "glossary.zh.md"))
    assert [row[:2] for row in english] == [row[:2] for row in chinese]
    assert len({row[0] for row in english}) == len(english) and all(all(row) for row in (*english, *chinese))


# ---- the API --------------------------------------------------------------------------------------------------------


def resolved(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def public() -> dict[str, Any]:
    """What the packages publish: `package.name` -> the object."""
    names = {}
    for stub in STUBS:
        package = ".".join(stub.parent.relative_to(PACKAGE.parent).parts)
        for name in re.findall(r"import \w+ as (\w+)$", stub.read_text("utf-8"), re.M):
            names[f"{package}.{name}"] = getattr(import_module(package), name)
    return {name: value for name, value in names.items() if not isinstance(value, ModuleType)}


PUBLIC = {name: value for name, value in public().items() if inspect.isclass(value) or inspect.isroutine(value)}


@pytest.mark.parametrize("name", ["api.md", "api.zh.md"])
def test_the_page_of_the_api_has_what_is_published_under_the_shortest_name(name: str) -> None:
    listed = re.findall(r"^::: ([\w.]+)$", text(name), re.M)
    assert len(set(listed)) == len(listed) and all(resolved(path) is not None for path in listed)
    objects = {id(resolved(path)) for path in listed}
    missing = [each for each in prefopt.__all__ if id(getattr(prefopt, each)) not in objects and each != "__version__"]
    assert not missing


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_says_what_it_is_for(name: str) -> None:
    """A docstring of its own, not a dataclass's signature, that begins with a sentence."""
    value = PUBLIC[name]
    found = inspect.cleandoc(vars(value).get("__doc__") or "" if inspect.isclass(value) else value.__doc__ or "")
    assert found and not found.startswith(f"{value.__name__}("), "no docstring"
    first = found.split("\n\n")[0]
    assert re.search(r"[.:?)]$", first) and len(first.split()) > 2, first

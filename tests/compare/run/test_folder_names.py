"""The folders of a comparison keep their names: what prefopt 0.1.0 has done is not done again.

The names below are those that prefopt 0.1.0 gave. A change that makes another result of the same inputs raises a number
in `FORMATS`, and then the names of that kind, and of what needs it, are taken anew.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from prefopt.compare import plan_from
from prefopt.compare.run.collected_results import CollectedResults
from prefopt.compare.run.hyperparameter_grid import trials
from prefopt.compare.run.task_functions import TASK_FUNCTIONS
from prefopt.compare.run.tasks import FORMATS, Tasks
from prefopt.tasks import in_order
from prefopt.utils.fingerprint import fingerprint_of_values

TESTBED: dict[str, Any] = {
    "policy": "testbed",
    "data": "testbed",
    "sft": {"max_steps": 3},
    "reward": {"learning_rate": 1e-3},
}
USERS_FILES: dict[str, Any] = {
    "policy": "model",
    "data": {"train": "train.jsonl", "test": "test.jsonl", "demonstrations": "sft.jsonl", "choices": ["questions.csv"]},
    "sft": {},
    "reward": "model",
}
METHODS = ("dpo", "ipo", "simpo", "rrhf", "rejection-sampling", "ppo-max", "ppo", "best-of-n")
# fmt: off
LOSSES = (
    "aot", "aot_unpaired", "apo_down", "apo_zero", "bco_pair", "bco_pair_trl", "best-of", "cdpo", "cpo", "discopop",
    "dpo", "exo_pair", "hinge", "ipo", "irpo", "kto", "ld_dpo", "mpo", "nca_pair", "orpo", "ppo", "ppo-max",
    "ppo-moss", "rejection-sampling", "robust", "rpo", "rrhf", "rrhf-code", "rrhf-mean", "sigmoid", "sigmoid_norm",
    "simpo", "slic", "sppo_hard", "wpo",
)
# fmt: on
PLANS: dict[str, dict[str, Any]] = {
    "testbed": {
        **TESTBED,
        "methods": METHODS,
        "seeds": [0, 3],
        "training": {"max_length": 128, "beta": 0.3, "max_new_tokens": 8},
        "judges": ["gold", "score", {"endpoint": "http://localhost/v1", "model": "m"}],
    },
    "settings": {
        **TESTBED,
        "methods": {
            "long": {"method": "dpo", "beta": 0.2, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
            "no scorer": {"method": "rrhf", "scorer": False},
            "best": {"method": "best-of-n", "n": 4},
        },
        "one_stage": True,
        "seeds": [1, 2],
        "budget": {"flops": 1e12},
        "evaluation": {"prompts": 9, "curve_points": 0, "shots": 2},
    },
    "files": {
        **USERS_FILES,
        "methods": {"dpo": {}, "simpo": {}, "ppo-max": {}, "mine": {"method": "stranger:mine", "weight": 2.0}},
        "model": {"use_peft": True, "lora_r": 4},
        "judges": ["score", "judging:longer", {"judge": "judging:length", "tolerance": 1.0}],
    },
    "grid": {
        **TESTBED,
        "methods": ("dpo", "rrhf"),
        "grid": {
            "methods": {"dpo": {"beta": [0.1, 0.2, 0.5]}, "rrhf": {"learning_rate": [1e-4, 1e-3]}},
            "trials": 2,
        },
    },
    "losses": {**TESTBED, "methods": LOSSES},
}
NAMES = {
    "testbed": """
encode/0-186d47d45b evaluate/best-of-n-0-13b9e5b0b6 evaluate/dpo-0-d7816808ae evaluate/ipo-0-7f097c1140
evaluate/ppo-0-19e2451e19 evaluate/ppo-max-0-dbd87c8f43 evaluate/rejection-sampling-0-2d20a8defc
evaluate/rrhf-0-9bac8eb513 evaluate/sft-0-ae2dae46a8 evaluate/simpo-0-89ca16d2d5 held_out/0-8db1b69609
judge/best-of-n-0-9ff3d8d68e judge/dpo-0-591b9f9fe9 judge/ipo-0-fe815c2eab judge/ppo-0-cbd93ed6b4
judge/ppo-max-0-8797fcb675 judge/rejection-sampling-0-61b2384464 judge/rrhf-0-9ff9d5121a
judge/simpo-0-1706b33eff rank/reward-model-0-35466c8f72 reference/0-6d76f5f0b6 reference_pairs/0-af2c83d743
reward/0-fceaff7afd rows/0-b75180c8d2 sft/0-2fb939ac21 train/dpo-0-523825ecdc train/ipo-0-deecf4afcd
train/ppo-0-4ef52fc349 train/ppo-max-0-6750f05e54 train/rejection-sampling-0-f8f5997204 train/rrhf-0-3f66bddf3d
train/simpo-0-ef1ef096f0
""",
    "settings": """
encode/1-6660f918f9 evaluate/best-1-608de88ff8 evaluate/best-2-bd504ac3f5 evaluate/long-1-d49bfe6991
evaluate/long-2-e02de352d8 evaluate/no_scorer-1-5745ee0e5e evaluate/no_scorer-2-21301b71cd
evaluate/sft-1-24a1a01b38 evaluate/sft-2-13ac86e4b8 held_out/1-3c582741bf rank/reward-model-1-b08aef99b3
reference_pairs/1-ec4f23cd58 reward/1-eca509610c rows/1-3deb42fe83 sft/1-0f2d4b8f0e train/long-1-6b982d535d
train/long-2-5a521913a8 train/no_scorer-1-a0612c2b96 train/no_scorer-2-190e328a6a
""",
    "files": """
encode/0-280804038b evaluate/dpo-0-9adcdf6d5c evaluate/mine-0-620fae4c34 evaluate/ppo-max-0-e04bb79fbb
evaluate/sft-0-cd9118967d evaluate/simpo-0-4ac2b82b60 held_out/59237b491b judge/dpo-0-9b1c4d6bc9 judge/dpo-0-c1dde7c064
judge/mine-0-25ab042aac judge/mine-0-4bf68f905e judge/ppo-max-0-34c29195ab judge/ppo-max-0-e23a421cdd
judge/simpo-0-97aa49229c judge/simpo-0-cec6e87f2a rank/reward-model-7c66611224 reference_pairs/0-8feb695eb1
rows/48e17f8298 sft/0-bcc3fb7e39 train/dpo-0-da1bf70046 train/mine-0-f0a362d65b train/ppo-max-0-96d400a433
train/simpo-0-9760687998
""",
    "grid": """
train/dpo-0-5b10786ec9 train/dpo-0-b8bcdbc051 train/dpo-0-eea0c22129 train/rrhf-0-5bf6b3d0a4
train/rrhf-0-93291efbe4 train/rrhf-0-cefa3bf972 validate/dpo-0-6dd4c518bb validate/dpo-0-ce34672540
validate/rrhf-0-5d1194acf0 validate/rrhf-0-9d2d159b7f
""",
    "losses": """
train/aot-0-2168d26ca1 train/aot_unpaired-0-3d0fe94395 train/apo_down-0-bf2a042112 train/apo_zero-0-b494b979af
train/bco_pair-0-b8def16fb7 train/bco_pair_trl-0-1b7a1e7145 train/best-of-0-c7d7c915d1 train/cdpo-0-0e873bb08a
train/cpo-0-f1d2ff93ba train/discopop-0-159ef0a664 train/dpo-0-5b10786ec9 train/exo_pair-0-c4ccc3fee8
train/hinge-0-26d82403f8 train/ipo-0-96a7f01903 train/irpo-0-cadb8c240e train/kto-0-4b0d200c19
train/ld_dpo-0-1160a985f2 train/mpo-0-c26fc5c47f train/nca_pair-0-f10eea1a2d train/orpo-0-adb45143b0
train/ppo-0-ce89fbcb05 train/ppo-max-0-1324c7fc1b train/ppo-moss-0-6562dfcf71
train/rejection-sampling-0-c557759dab train/robust-0-dfde9b6dc9 train/rpo-0-7a12310de2 train/rrhf-0-5bf6b3d0a4
train/rrhf-code-0-6770f14dea train/rrhf-mean-0-61b95f3a8e train/sigmoid-0-28bddad516
train/sigmoid_norm-0-b6eb224940 train/simpo-0-f22001699f train/slic-0-f8910d3e60 train/sppo_hard-0-7a9f9c8669
train/wpo-0-c64c16d3c2
""",
}
"""Plan -> names that prefopt 0.1.0 gave to folders of it; those of "files" are of a later reading (`READING` 3)."""
FILES = {
    "model/config.json": "{}\n",
    "train.jsonl": '{"a": "train"}\n',
    "test.jsonl": '{"a": "test"}\n',
    "sft.jsonl": '{"a": "sft"}\n',
    "questions.csv": "question,A,B,answer\n",
    "judging.py": """\
def longer(prompts, first, second):
    return [1.0] * len(first)

def length(prompts, responses):
    return [float(len(each)) for each in responses]
""",
    "stranger.py": """\
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
""",
}
DATE = 1704067200  # seconds: the date of a file is part of what is hashed


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's files in the current folder, from where a plan takes its paths."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        os.utime(path, (DATE, DATE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("judging", "stranger"):
        monkeypatch.delitem(sys.modules, module, raising=False)


def names_of(given: dict[str, Any]) -> set[str]:
    plan = plan_from(given)
    tasks = Tasks(plan)
    tried = trials(plan, tasks)
    wanted = [*CollectedResults(plan, tasks, Path("out"), tried, []).all_tasks(), *(trial.task for trial in tried)]
    return {task.key for task in in_order(wanted)}


@pytest.mark.filterwarnings("ignore:the objective 'best-of' is now called")  # its name in that release
@pytest.mark.parametrize("plan", PLANS)
def test_folders_of_the_first_release_are_recognised(plan: str, files: None) -> None:
    expected, names = set(NAMES[plan].split()), names_of(PLANS[plan])
    assert expected - names == set()
    if plan in ("settings", "files"):  # of the others, some kinds or seeds are left out above
        assert names == expected


def test_another_version_of_prefopt_changes_no_name(files: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names_of(PLANS["files"])
    monkeypatch.setattr("prefopt.__version__", "9.9")
    assert names_of(PLANS["files"]) == before


def test_a_new_format_makes_anew_its_kind_and_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = names_of(PLANS["testbed"])
    monkeypatch.setitem(FORMATS, "reward", 2)
    gone = {name.partition("/")[0] for name in before - names_of(PLANS["testbed"])}
    assert gone == {"reward", "rank", "train", "evaluate", "judge"}


def test_every_kind_of_task_has_a_function_and_a_format() -> None:
    assert set(FORMATS) == set(TASK_FUNCTIONS)


def test_a_users_objective_is_known_by_its_file_and_not_by_prefopts(files: None, tmp_path: Path) -> None:
    """Its class may be one of prefopt's own, whose source another version changes without changing the method."""
    Path("naming.py").write_text("from prefopt import DPO\nNAMES = {'mine': DPO(beta=0.3)}\n")
    (spec,) = [
        s
        for s in plan_from({**TESTBED, "methods": {"mine": {"method": "naming:mine"}}}).method_specs.values()
        if s.trains
    ]
    assert spec.source_fingerprint == fingerprint_of_values([Path("naming.py").read_text()])

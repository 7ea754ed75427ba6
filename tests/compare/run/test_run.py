"""Whole comparisons, small ones: what fails leaves the rest standing, and whatever is there is not done again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from prefopt import testbed
from prefopt.compare.plan.plan import PlanError
from prefopt.compare.report.findings import Findings
from prefopt.compare.run.comparison import compare
from prefopt.data.encode import Encoding, encode_dataset
from prefopt.tasks import done
from prefopt.testbed.model import build_policy, build_tokenizer

TINY: dict[str, Any] = {
    "title": "tiny",
    "policy": "testbed",
    "data": {"train": "testbed", "train_rows": 40},
    "sft": {"max_steps": 2, "learning_rate": 3e-3, "per_device_train_batch_size": 16},
    "reward": {"max_steps": 2, "learning_rate": 1e-3},
    "training": {
        "per_device_train_batch_size": 8,
        "max_length": 128,
        "max_new_tokens": 8,
        "bf16": False,
        "gradient_checkpointing": False,
        "learning_rate": 1e-3,
    },
    "evaluation": {
        "prompts": 8,
        "pairs": 16,
        "responses_per_prompt": 2,
        "max_new_tokens": 8,
        "curve_points": 2,
        "curve_prompts": 4,
    },
    "judges": ["gold", "score"],
}
STRANGER = """\
import os, signal
from dataclasses import dataclass
import torch
from prefopt import DPO

@dataclass(kw_only=True)
class Unlucky(DPO):
    end: str = "raise"

    def loss(self, out, batch):
        if torch.initial_seed() == 1 and self.end == "raise":
            raise RuntimeError("no luck with this seed <b>&")
        if self.end == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(out, batch)

NAMES = {"unlucky": Unlucky()}
"""


@pytest.fixture(scope="module")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Findings, dict[str, Any]]:
    """A run in which a name is misspelt, a seed crashes and a process dies."""
    folder = tmp_path_factory.mktemp("eventful")
    (folder / "unlucky_method.py").write_text(STRANGER)
    methods = {
        "dpo": {"max_steps": 2},
        "ipo": {"max_steps": 2},
        "best-of-n": {"n": 2},
        "dpoo": {},
        "unlucky": {"method": "unlucky_method:unlucky", "max_steps": 2},
        "dying": {"method": "unlucky_method:unlucky", "end": "die", "max_steps": 2},
    }
    plan = {**TINY, "methods": methods, "seeds": [0, 1]}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        findings = compare(plan, folder / "out", jobs=2, keep_going=True)
    return folder / "out", findings, plan


def test_what_fails_is_said_and_the_rest_is_there(eventful: tuple[Path, Findings, dict[str, Any]]) -> None:
    out, findings, _ = eventful
    there = {method.name: list(method.seeds) for method in findings.methods}
    assert there["sft"] == there["dpo"] == there["ipo"] == there["best-of-n"] == [0, 1]
    assert there["unlucky"] == [0]
    reasons = {(failure.method, failure.seed): failure.reason for failure in findings.failures}
    assert reasons.keys() == {("unlucky", 1), ("dying", 0), ("dying", 1)}
    assert reasons["unlucky", 1] == "RuntimeError: no luck with this seed <b>&"
    assert "killed" in reasons["dying", 0]
    (unknown,) = [each for each in findings.warnings if each.key == "unknown_method"]
    assert unknown.values["name"] == "dpoo" and "did you mean dpo" in unknown.values["hint"]
    page = (out / "report/report.html").read_text("utf-8")
    for text in ("no luck with this seed &lt;b&gt;&amp;", "did you mean dpo", "killed, most often for memory"):
        assert text in page


def test_a_misspelt_name_is_refused_unless_the_rest_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="did you mean dpo"):
        compare({**TINY, "methods": {"dpoo": {}}}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_shared_reference_is_computed_once_and_charged_to_each(
    eventful: tuple[Path, Findings, dict[str, Any]],
) -> None:
    _, findings, _ = eventful
    costs = {name: findings.method(name).cost for name in ("dpo", "ipo")}
    for cost in costs.values():
        assert "reference" not in cost.flops and cost.shared["reference"] > 0
        assert cost.flops["training"] > 0 and cost.steps == 2
    assert costs["dpo"].shared == costs["ipo"].shared
    best = findings.method("best-of-n").cost
    assert best.flops.keys() == {"generation", "scoring"} and best.shared["reward model"] > 0


def test_a_second_run_does_only_what_is_missing(eventful: tuple[Path, Findings, dict[str, Any]]) -> None:
    out, findings, plan = eventful
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*/done.json")}
    methods = {name: plan["methods"][name] for name in ("dpo", "ipo", "best-of-n")}
    again = compare({**plan, "methods": methods}, out, jobs=1)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*/done.json")} == before
    for name in methods:
        assert again.method(name).metrics == findings.method(name).metrics


def test_results_of_other_versions_are_told(eventful: tuple[Path, Findings, dict[str, Any]]) -> None:
    out, findings, plan = eventful
    assert not any(each.key == "mixed_versions" for each in findings.warnings)
    (folder,) = out.glob("train/dpo-0-*")
    known = done.read(folder)
    assert known is not None
    done.write(folder, {**known, "packages": {**known["packages"], "torch": "1.0"}})
    methods = {"dpo": plan["methods"]["dpo"]}
    again = compare({**plan, "methods": methods}, out, report_only=True)
    (mixed,) = [each for each in again.warnings if each.key == "mixed_versions"]
    assert mixed.values == {"packages": [f"torch 1.0, {known['packages']['torch']}"]}
    assert again.provenance["packages"]["torch"] == f"1.0, {known['packages']['torch']}"


MOODY = """\
def moody(prompts, first, second):
    if any(len(text) % 2 for text in first):
        raise RuntimeError("not in the mood")
    return [1.0 if len(a) > len(b) else 0.5 if len(a) == len(b) else 0.0 for a, b in zip(first, second)]
"""


def _files(folder: Path) -> dict[str, Any]:
    """A tiny model and pairs as a user has them; some test prompts are trained on."""
    tokenizer = build_tokenizer()
    build_policy(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    train, test = testbed.preference_rows(40, 0), testbed.preference_rows(16, 0, "test")
    for name, rows in (("train", train), ("test", [*test, *train[:4]]), ("sft", testbed.sft_rows(32, 0))):
        testbed.write_jsonl(folder / f"{name}.jsonl", rows if name == "sft" else map(testbed.hh_rlhf, rows))
    names = {"train": "train", "test": "test", "demonstrations": "sft"}
    return {"policy": str(folder / "model"), "data": {k: str(folder / f"{v}.jsonl") for k, v in names.items()}}


def test_a_users_files_an_adapter_and_a_moody_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "moody_judge.py").write_text(MOODY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    methods = {
        "dpo": {"max_steps": 2},
        "rrhf": {"scorer": False, "max_steps": 2},
        "挑选": {"method": "best-of-n", "n": 2},
    }
    plan = {**TINY, **_files(tmp_path), "model": {"use_peft": True, "lora_r": 2}, "methods": methods}
    findings = compare({**plan, "judges": ["score", "moody_judge:moody"]}, tmp_path / "out", jobs=2, lang="zh")
    assert {method.name for method in findings.methods} == {"sft", "dpo", "rrhf", "挑选"}
    assert findings.failures == [] and findings.primary == "score"
    assert findings.method("dpo").metrics["kl"].mean != 0.0  # the adapter that was trained is what was measured
    assert findings.method("sft").metrics["kl"].mean == 0.0
    found = {warning.key: warning for warning in findings.warnings}
    assert found["overlap"].values["dropped"] == len({str(row["prompt"]) for row in testbed.preference_rows(40, 0)[:4]})
    assert {"judge_failed", "few_seeds", "same_scorer"} <= set(found)
    moody = next(judge for judge in findings.judges if judge.name == "moody_judge:moody")
    for rate in moody.rates:
        assert 0 < rate.failures < 8 or rate.wins + rate.ties + rate.losses == 8
        assert rate.failures + rate.wins + rate.ties + rate.losses == 8
    page = (tmp_path / "out/report/report.html").read_text("utf-8")
    assert "奖励模型得分" in page and "挑选" in page


def test_without_a_reward_model_there_is_still_a_report(tmp_path: Path) -> None:
    plan = {key: value for key, value in {**TINY, **_files(tmp_path)}.items() if key not in ("reward", "sft")}
    findings = compare({**plan, "methods": {"dpo": {"max_steps": 1}}, "judges": []}, tmp_path / "out")
    assert findings.pairings == [] and findings.method("dpo").metrics["accuracy"].mean > 0
    assert "no_reward_model" in {warning.key for warning in findings.warnings}


def test_what_encoding_did_to_the_rows_stands_in_the_report(tmp_path: Path) -> None:
    """The counts are those of rows that are longer than the room; other stages have room, and nothing to tell."""
    room = 20
    training = {**TINY["training"], "max_length": room, "truncation_mode": "keep_start"}
    sft = {**TINY["sft"], "max_length": 1024}
    plan = {**TINY, "sft": sft, "training": training, "methods": {"dpo": {"max_steps": 2}}, "seeds": [0]}
    findings = compare(plan, tmp_path / "out")
    told = {warning.key: warning.values for warning in findings.warnings if warning.key.startswith("encoding.")}
    whole = encode_dataset(testbed.preference_rows(40, 0), build_tokenizer(), Encoding(max_length=None))
    prompts = [len(row["prompt_ids"]) for row in whole]
    left = [room - min(length, room - 1) for length in prompts]
    cut = sum(len(ids) > most for row, most in zip(whole, left, strict=True) for ids in row["response_ids"])
    assert cut > 0
    assert told == {
        "encoding.prompts_cut": {"rows": sum(length > room - 1 for length in prompts), "of": "encode"},
        "encoding.answers_cut": {"rows": cut, "of": "encode"},
        "encoding.eos_lost": {"rows": cut, "of": "encode"},
    }
    page = (tmp_path / "out/report/report.html").read_text("utf-8")
    assert f"encode: {cut} answers were cut to max_length" in page

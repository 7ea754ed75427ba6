"""`prefopt evaluate` on policies that were trained elsewhere: a copy equals its original, another policy does not."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from prefopt import testbed
from prefopt.cli.evaluate import named_policies
from prefopt.compare import PlanError, compare
from prefopt.testbed.model import build_policy, build_tokenizer
from tests.helpers.commands import error_of, run
from tests.helpers.tokenizers import make_tokenizer

SIZES = ["--prompts", 6, "--responses_per_prompt", 2, "--max_new_tokens", 8]


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three policies of the testbed, two of them the same, and one of another tokenizer; and rows."""
    folder = tmp_path_factory.mktemp("policies")
    tokenizer = build_tokenizer()
    for name, seed in {"v0": 0, "copy": 0, "v1": 1}.items():
        build_policy(tokenizer, seed).save_pretrained(folder / name / "policy")
        tokenizer.save_pretrained(folder / name / "policy")
    other = make_tokenizer()
    build_policy(other, 2).save_pretrained(folder / "other")
    other.save_pretrained(folder / "other")
    testbed.write_jsonl(folder / "pairs.jsonl", map(testbed.hh_rlhf, testbed.preference_rows(12, 0)))
    return folder


@pytest.fixture(scope="module")
def evaluated(policies: Path) -> tuple[Path, dict[str, Any]]:
    out = policies / "out"
    paths = [policies / "v0/policy", policies / "copy/policy", policies / "v1/policy", policies / "other"]
    assert run("evaluate", *paths, "--data", policies / "pairs.jsonl", "--output_dir", out, *SIZES) == 0
    return out, json.loads((out / "report" / "report.json").read_text())


def test_a_copy_is_its_original_and_others_differ(evaluated: tuple[Path, dict[str, Any]]) -> None:
    _, report = evaluated
    methods = {method["name"]: method["metrics"] for method in report["methods"]}
    assert list(methods) == ["v0/policy", "copy/policy", "v1/policy", "other"] and report["baseline"] == "v0/policy"
    assert methods["copy/policy"] == methods["v0/policy"] and methods["copy/policy"]["kl"]["mean"] == 0
    assert methods["v1/policy"]["kl"]["mean"] > 0.1
    assert "few_seeds" not in {warning["key"] for warning in report["warnings"]}


def test_another_tokenizer_answers_in_its_own_words_and_has_no_divergence(
    evaluated: tuple[Path, dict[str, Any]],
) -> None:
    out, report = evaluated
    (other,) = (method for method in report["methods"] if method["name"] == "other")
    assert "kl" not in other["metrics"] and "length" in other["metrics"]
    (folder,) = (out / "evaluate").glob("other*")
    responses = pd.read_parquet(folder / "responses.parquet")
    assert len(responses) == 12 and responses["kl"].isna().all()
    assert not (folder / "pairs.parquet").exists()


def test_tables_are_there_for_other_programs(evaluated: tuple[Path, dict[str, Any]]) -> None:
    out, report = evaluated
    with (out / "report/tables/metrics.csv").open(encoding="utf-8") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    for method in report["methods"]:
        length = method["metrics"]["length"]
        found = [float(rows[method["name"]][name]) for name in ("length", "length: low", "length: high")]
        assert found == [length["mean"], length["low"], length["high"]]
    latex = (out / "report/tables/metrics.tex").read_text()
    assert latex.count(r"\\") == 1 + len(report["methods"]) and "v0/policy" in latex


def test_a_further_policy_is_added_to_what_is_there(policies: Path, evaluated: tuple[Path, dict[str, Any]]) -> None:
    out, _ = evaluated
    times = {path: path.stat().st_mtime_ns for path in (out / "evaluate").glob("*/done.json")}
    assert len(times) == 4
    named = [policies / "v0/policy", f"neu={policies / 'copy/policy'}"]
    assert run("evaluate", *named, "--data", policies / "pairs.jsonl", "--output_dir", out, *SIZES) == 0
    again = {path: path.stat().st_mtime_ns for path in (out / "evaluate").glob("*/done.json")}
    assert len(again) == 5 and {path: again[path] for path in times} == times


def test_names_are_the_ends_that_tell_apart(tmp_path: Path) -> None:
    given = ["runs/v1/policy", "runs/v2/policy", "org/model", "base=org/other"]
    assert named_policies(given) == {
        "v1/policy": "runs/v1/policy",
        "v2/policy": "runs/v2/policy",
        "model": "org/model",
        "base": "org/other",
    }
    with pytest.raises(ValueError, match="two policies have this name"):
        named_policies(["a=x/y", "a=x/z"])


def test_what_cannot_be_is_refused(policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", policies / "pairs.jsonl", "--output_dir", tmp_path / "out"]
    assert "policies: ./none: no such folder" in error_of(capsys, "evaluate", policies / "v0/policy", "./none", *data)
    said = error_of(capsys, "evaluate", policies / "v0/policy", "--by", "subset", *data)
    assert "--by divides the pairs of reward models" in said
    with pytest.raises(PlanError, match="`train` is missing"):
        plan = {"policy": str(policies / "v0/policy"), "data": {"test": str(policies / "pairs.jsonl")}}
        compare({**plan, "methods": {"dpo": {}}, "evaluation": {"curve_points": 0}}, tmp_path / "out")
    with pytest.raises(PlanError, match="give the path or hub id of the checkpoint"):
        compare({**plan, "methods": {"a": {"method": "checkpoint"}}}, tmp_path / "out")
    assert not (tmp_path / "out").exists()

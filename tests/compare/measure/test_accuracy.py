"""Accuracies of reward models by category: counts made by hand, Wilson's published example, and the whole command."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
from transformers import LlamaConfig

from prefopt import testbed
from prefopt.compare.measure.accuracy import accuracy, by_category, reward_accuracies
from prefopt.data.records import DataError, Messages
from prefopt.scoring import CallableScorer
from tests.helpers.commands import error_of, run

ROWS = [
    {"prompt": "p", "chosen": "aaa", "rejected": "b", "subset": "long"},
    {"prompt": "q", "chosen": "aa", "rejected": "b", "subset": "long"},
    {"prompt": "r", "chosen": "a", "rejected": "bbb", "subset": "短"},
    {"prompt": "s", "chosen": "a", "rejected": "b", "subset": "短"},
    {"prompt": "t", "chosen": "a", "rejected": "bb", "subset": "短"},
]


def by_length(prompts: list[Messages], responses: list[str]) -> list[float]:
    return [float(len(response)) for response in responses]


def by_letter(prompts: list[Messages], responses: list[str]) -> list[float]:
    return [float(response[0] == "a") for response in responses]


def test_wilsons_interval() -> None:
    """Of 81 in 263, (.255, .366): Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3."""
    found = accuracy([1.0] * 81 + [0.0] * 182)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662) and found.pairs == 263
    tied = accuracy([1.0] * 40 + [0.5] * 41 + [0.0] * 182)
    assert tied.low < found.low and tied.high == found.high and tied.ties == 41
    assert tied.mean == (40 + 20.5) / 263
    with pytest.raises(ValueError, match="no pairs"):
        accuracy([])


def test_categories_are_ranked_apart_and_together() -> None:
    rows = by_category(ROWS, "subset")
    assert {category: len(table) for category, table in rows.items()} == {"long": 2, "短": 3}
    scorers = {"length": by_length, "letter": by_letter}
    made = [(name, CallableScorer(function, name=name)) for name, function in scorers.items()]
    found = reward_accuracies(made, rows, "subset")
    assert found.categories["length"]["long"].mean == 1 and found.categories["length"]["短"].mean == 0.5 / 3
    assert found.whole["length"].mean == 2.5 / 5 and found.whole["length"].ties == 1
    assert found.balanced["length"] == pytest.approx((1 + 0.5 / 3) / 2)
    assert found.whole["letter"].mean == found.balanced["letter"] == 1
    assert found.p == {"letter": pytest.approx(2 * 0.5**2)}  # two pairs that only the letter ranks right


def test_a_row_without_a_category_is_named() -> None:
    with pytest.raises(DataError, match=r"there is no 'subsett' .*subset"):
        by_category(ROWS, "subsett")
    nested = [{**row, "meta": {"kind": row["subset"]}} for row in ROWS]
    assert list(by_category(nested, "meta.kind")) == ["long", "短"]
    assert list(by_category(ROWS, None)) == [""]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    testbed.write_jsonl(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "own_scorers.py").write_text(
        "def length(prompts, responses):\n    return [float(len(r)) for r in responses]\n\n"
        "def letter(prompts, responses):\n    return [float(r[0] == 'a') for r in responses]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    models = ["length=own_scorers:length", "letter=own_scorers:letter"]
    assert run("evaluate", *models, "--data", "rows.jsonl", "--by", "subset", "--output_dir", "out") == 0
    said = capsys.readouterr().out
    assert "短" in said and "mean of categories" in said
    found = json.loads(Path("out/report/accuracy.json").read_text())
    assert found["whole"]["length"]["mean"] == 0.5
    with Path("out/report/tables/accuracy.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["category"] for line in lines] == ["long", "短", "mean of categories", "all pairs", "p against length"]
    assert math.isclose(float(lines[1]["length"]), 0.5 / 3)
    assert run("evaluate", *models, "--data", "rows.jsonl", "--lang", "zh", "--output_dir", "out") == 0
    assert Path("out/report/accuracy.md").read_text().startswith("# 奖励模型的准确率")
    LlamaConfig().save_pretrained(tmp_path / "policy")
    assert "evaluate them apart" in error_of(capsys, "evaluate", *models, "policy", "--data", "rows.jsonl")

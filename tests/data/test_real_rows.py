"""The published rows themselves, where a copy is at hand: set PREFOPT_REAL_DATA to the folder that holds it."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefopt.data import Candidates, load, load_preferences
from prefopt.data.loading import parse

FOLDER = os.environ.get("PREFOPT_REAL_DATA")
pytestmark = pytest.mark.skipif(not FOLDER, reason="PREFOPT_REAL_DATA names no folder of published rows")

HARMLESS = "hh_harmless_test_1600.jsonl"
PAIRS = {  # file -> adapter, kept, repaired, dropped
    HARMLESS: ("hh-rlhf", 1596, 4, {"empty chosen": 4}),
    "hh_train_200.jsonl": ("hh-rlhf", 200, 1, {}),
    "rm_static_en_600.jsonl": ("rm-static", 600, 0, {}),
    "rm_static_zh_1500.jsonl": ("rm-static-zh", 1500, 0, {}),
    "hh_rlhf_cn_raw_100.jsonl": ("hh-rlhf-cn", 100, 0, {}),
    "llamafactory_dpo_zh_100.jsonl": ("llamafactory", 100, 0, {}),
    "ultrafeedback_scored_700.jsonl": ("trl", 697, 0, {"identical answers": 2, "empty rejected": 1}),
}


def path(name: str) -> Path:
    return Path(str(FOLDER)) / name


@pytest.mark.parametrize("name", PAIRS)
def test_every_row_is_accounted_for(name: str) -> None:
    adapter, kept, repaired, dropped = PAIRS[name]
    dataset, report = load(path(name))
    assert (report.adapter, report.kept, report.repaired.total(), dict(report.dropped)) == (
        adapter,
        kept,
        repaired,
        dropped,
    )
    assert len(dataset) == kept and report.rows == sum(1 for _ in path(name).open())


@pytest.mark.parametrize("name", [name for name, (adapter, *_) in PAIRS.items() if adapter != "trl"])
def test_every_prompt_ends_on_a_user_turn(name: str) -> None:
    for row in load_preferences(path(name)):
        speakers = [turn["role"] for turn in row["prompt"] if turn["role"] != "system"]
        assert speakers == ["user", "assistant"] * (len(speakers) // 2) + ["user"]


def squeezed(text: str) -> str:
    """Text less its white space, which transcripts have more of than turns."""
    return re.sub(r"\s+", "", text)


def published() -> Iterator[tuple[Candidates, dict[str, str]]]:
    """Each kept row of harmless-base beside its published line, less those whose turns were merged."""
    lines = path(HARMLESS).read_bytes().split(b"\n")
    records, _, _ = parse(path(HARMLESS))
    for origin, candidates in records:
        if not candidates.repairs:
            yield candidates, json.loads(lines[int(origin.rpartition(":")[2]) - 1])


def test_no_prompt_holds_the_final_answer() -> None:
    """The prompt and one answer make up the transcript; a prompt that quotes its answer was published so."""
    names = {"user": "\n\nHuman:", "assistant": "\n\nAssistant:"}
    rows = 0
    for candidates, row in published():
        prompt = "".join(names[turn.role] + turn.content for turn in candidates.prompt) + names["assistant"]
        for side, answer in zip(("chosen", "rejected"), candidates.responses, strict=True):
            assert squeezed(prompt + str(answer)) == squeezed(row[side])
            assert str(answer) not in prompt or row[side].count(str(answer)) > 1
        rows += 1
    assert rows == 1592


def test_cutting_at_the_first_difference_would_run_into_the_answer() -> None:
    """What TRL does with the same rows; if this fails, TRL has learnt to split them and the README must say so."""
    extract_prompt = pytest.importorskip("trl.data_utils", reason="TRL is not installed").extract_prompt
    prompts = [extract_prompt(json.loads(line))["prompt"] for line in path(HARMLESS).open()]
    assert sum(not prompt.rstrip().endswith("Assistant:") for prompt in prompts) == 299


@pytest.mark.parametrize(
    ("name", "kind"), [("finegrained_k4_250.jsonl", "preferences"), ("cvalues_zh_prompts_300.jsonl", "prompts")]
)
def test_lists_and_prompts_are_complete(name: str, kind: str) -> None:
    dataset, report = load(path(name), kind)
    assert len(dataset) == report.rows and not report.repaired
    if kind == "preferences":
        assert all(
            len(row["responses"]) == 4 and row["scores"] == sorted(row["scores"], reverse=True) for row in dataset
        )

"""Rows hold what training may see and nothing else; files are in the published formats to the letter."""

import json
from pathlib import Path

import pytest

from prefopt.grades import GRADES
from prefopt.testbed.files import conversation, hh_rlhf, rm_static, rrhf, transcript, write_all, write_jsonl
from prefopt.testbed.prompts import find_prompt, sample_prompts
from prefopt.testbed.recipe import Recipe
from prefopt.testbed.rows import candidate_rows, pairs_from, preference_rows, prompt_rows, sft_rows

MAKERS = [
    (sft_rows, {"prompt", "response"}),
    (preference_rows, {"prompt", "chosen", "rejected", "grade"}),
    (candidate_rows, {"prompt", "responses", "scores"}),
    (prompt_rows, {"prompt"}),
]
ROW = {
    "prompt": [
        {"role": "user", "content": "法国的首都是哪里？"},
        {"role": "assistant", "content": "是巴黎。"},
        {"role": "user", "content": "那意大利呢？"},
    ],
    "chosen": "是罗马。",
    "rejected": "是米兰。",
    "grade": "better",
}
CONTEXT = "\n\nHuman: 法国的首都是哪里？\n\nAssistant: 是巴黎。\n\nHuman: 那意大利呢？\n\nAssistant:"


@pytest.mark.parametrize(("make", "columns"), MAKERS)
def test_rows_by_seed_and_split(make, columns) -> None:
    rows = make(40, 7, "test")
    assert rows == make(40, 7, "test") != make(40, 8, "test")
    assert all(set(row) == columns for row in rows)
    assert {find_prompt(row["prompt"]).split for row in rows} == {"test"}


def test_pairs_differ_and_are_graded() -> None:
    rows = preference_rows(500, 0)
    assert all(row["chosen"] != row["rejected"] and row["grade"] in GRADES for row in rows)


def test_candidates_are_different_and_rated() -> None:
    rows = candidate_rows(50, 0, k=5)
    assert all(len(set(row["responses"])) == len(row["scores"]) == 5 for row in rows)
    assert all(isinstance(score, float) for row in rows for score in row["scores"])


def test_pairs_from_given_responses() -> None:
    prompts = sample_prompts(3, 0)
    same = [("x", True), ("x", True)]
    cut = [("x", True), ("x", False)]
    rows = pairs_from(prompts, [same, cut, [("a", True), ("b", True)]], seed=0)
    assert [row["prompt"] for row in rows] == [p.messages for p in prompts[1:]]
    assert {rows[1]["chosen"], rows[1]["rejected"]} == {"a", "b"}
    with pytest.raises(ValueError):
        pairs_from(prompts, [same], seed=0)


def test_transcript() -> None:
    assert transcript(ROW["prompt"]) + "\n\nAssistant:" == CONTEXT


def test_hh_rlhf_to_the_letter() -> None:
    assert hh_rlhf(ROW) == {"chosen": CONTEXT + " 是罗马。", "rejected": CONTEXT + " 是米兰。"}


def test_rm_static_to_the_letter() -> None:
    assert rm_static(ROW) == {
        "prompt": CONTEXT,
        "response": " 是罗马。",
        "chosen": " 是罗马。",
        "rejected": " 是米兰。",
    }


def test_rrhf_and_conversation_to_the_letter() -> None:
    k_list = {"prompt": ROW["prompt"], "responses": ["是罗马。", "是米兰。"], "scores": [1.5, -0.5]}
    assert rrhf(k_list) == {"query": CONTEXT, "responses": ["是罗马。", "是米兰。"], "scores": [1.5, -0.5]}
    turns = conversation({"prompt": ROW["prompt"], "response": "是罗马。"})["messages"]
    assert turns == [*ROW["prompt"], {"role": "assistant", "content": "是罗马。"}]


def test_jsonl_is_utf8_and_unescaped(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "deep" / "rows.jsonl", [ROW, ROW])
    raw = path.read_bytes()
    assert raw.count(b"\n") == 2 and raw.endswith(b"}\n") and "罗马".encode() in raw and b"\\u" not in raw


def test_every_file(tmp_path: Path) -> None:
    sizes = Recipe(sft_rows=60, preference_rows=50, held_out_pairs=40)
    paths = write_all(tmp_path, 0, sizes)
    files = {path.name: [json.loads(line) for line in path.read_text("utf-8").splitlines()] for path in paths}
    assert len(files) == 16
    for split, n in (("train", 50), ("test", 40)):
        english, chinese = files[f"rm-static-en.{split}.jsonl"], files[f"rm-static-zh.{split}.jsonl"]
        assert len(english) + len(chinese) == len(files[f"hh-rlhf.{split}.jsonl"]) == n
        for row in english + chinese:
            assert set(row) == {"prompt", "response", "chosen", "rejected"} and row["response"] == row["chosen"]
            assert row["prompt"].startswith("\n\nHuman: ") and row["prompt"].endswith("\n\nAssistant:")
            assert row["chosen"][0] == row["rejected"][0] == " " and row["chosen"][1] != " "
        assert all(ord(c) < 128 for row in english for c in row["prompt"])
        assert set(files[f"candidates.{split}.jsonl"][0]) == {"query", "responses", "scores"}
    assert len(files["sft.train.jsonl"]) == 60 and len(files["prompts.test.jsonl"]) == 40
    again = write_all(tmp_path / "again", 0, sizes)
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]

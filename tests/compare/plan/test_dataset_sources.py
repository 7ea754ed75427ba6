"""The rows of a comparison: what is learnt from and what is measured on have no prompt in common."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefopt import testbed
from prefopt.candidates.candidate import prompt_key
from prefopt.compare.plan.dataset_sources import HeldOutData, TrainingData, make_dataset_source
from prefopt.compare.plan.plan import Data, Evaluation, PlanError

SMALL = Evaluation(prompts=12, pairs=10, curve_prompts=6)


def files(folder: Path, train: list[Any], test: list[Any], **more: Any) -> Any:
    for name, rows in (("train", train), ("test", test)):
        testbed.write_jsonl(folder / f"{name}.jsonl", rows)
    return make_dataset_source(Data(train=str(folder / "train.jsonl"), test=str(folder / "test.jsonl"), **more), SMALL)


def keys(prompts: Any) -> set[str]:
    return {prompt_key(prompt) for prompt in prompts}


def test_validation_prompts_are_set_aside(tmp_path: Path) -> None:
    train = testbed.preference_rows(80, 0)
    rows = files(tmp_path, train, testbed.preference_rows(30, 0, "test")).rows(0)
    assert len(rows.validation) == 6
    assert not keys(rows.validation) & keys(rows.train["prompt"])
    assert keys(rows.validation) | keys(rows.train["prompt"]) == keys(row["prompt"] for row in train)


def test_test_prompts_that_are_trained_on_are_left_out_and_said(tmp_path: Path) -> None:
    train, test = testbed.preference_rows(80, 0), testbed.preference_rows(30, 0, "test")
    testbed.write_jsonl(tmp_path / "validation.jsonl", testbed.preference_rows(9, 0, "validation"))
    world = files(tmp_path, train, [*test, *train[:10]], validation=str(tmp_path / "validation.jsonl"))
    rows = world.rows(0)
    held_out = world.held_out(rows)
    assert not keys(held_out.prompts) & keys(rows.train["prompt"])
    (note,) = held_out.notes
    assert note["key"] == "overlap" and note["serious"]
    assert note["values"]["dropped"] == len(keys(row["prompt"] for row in train[:10]))
    assert note["values"]["of"] == len(keys(row["prompt"] for row in [*test, *train[:10]]))


def test_no_note_where_nothing_overlaps(tmp_path: Path) -> None:
    world = files(tmp_path, testbed.preference_rows(80, 0), testbed.preference_rows(30, 0, "test"))
    held_out = world.held_out(world.rows(0))
    assert held_out.notes == [{"key": "set_aside", "values": {"prompts": 6}}]
    assert len(held_out.prompts) == 12 == len(keys(held_out.prompts))
    assert held_out.pairs is not None and len(held_out.pairs) == 10


def test_prompts_that_are_watched_or_demonstrated_are_no_test(tmp_path: Path) -> None:
    train, test = testbed.preference_rows(80, 0), testbed.preference_rows(30, 0, "test")
    testbed.write_jsonl(tmp_path / "sft.jsonl", testbed.sft_rows(5, 0, "test"))
    world = files(tmp_path, train, [*test, *train], demonstrations=str(tmp_path / "sft.jsonl"))
    rows = world.rows(0)
    assert rows.demonstrations is not None
    held_out = world.held_out(rows)
    assert not keys(held_out.prompts) & (keys(rows.validation) | keys(rows.demonstrations["prompt"]))


def test_a_test_set_that_is_all_trained_on_is_refused(tmp_path: Path) -> None:
    train = testbed.preference_rows(40, 0)
    world = files(tmp_path, train, train[:5], validation=str(tmp_path / "test.jsonl"))
    with pytest.raises(PlanError, match="every prompt of the 5 test rows is also trained on"):
        world.held_out(world.rows(0))


def test_prompts_alone_can_be_tested_on(tmp_path: Path) -> None:
    test = [{"prompt": row["prompt"]} for row in testbed.preference_rows(30, 0, "test")]
    world = files(tmp_path, testbed.preference_rows(80, 0), test)
    held_out = world.held_out(world.rows(0))
    assert held_out.pairs is None and len(held_out.prompts) == 12


def test_seeds_of_the_small_world_learn_from_other_rows_and_are_measured_on_the_same() -> None:
    world = make_dataset_source(Data(train="testbed", train_rows=20), SMALL)
    first, second = world.rows(0), world.rows(1)
    assert first.train[:] != second.train[:]
    assert world.held_out(first).prompts == world.held_out(second).prompts
    assert not keys(first.train["prompt"]) & keys(world.held_out(first).prompts)
    assert world.gold([first.validation[0]], [""], [True]) == [-4.0]


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    world = make_dataset_source(Data(train="testbed", train_rows=20), SMALL)
    rows = world.rows(0)
    held_out = world.held_out(rows)
    rows.write(tmp_path / "rows")
    held_out.write(tmp_path / "held_out")
    again, also = TrainingData.read(tmp_path / "rows"), HeldOutData.read(tmp_path / "held_out")
    assert again.train[:] == rows.train[:] and again.validation == rows.validation
    assert also.prompts == held_out.prompts and also.pairs is not None and also.pairs[:] == held_out.pairs[:]  # type: ignore[index]


def test_a_plan_says_what_columns_and_plain_text_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"ask": f"问题 {i}？", "good": f" 好 {i}", "bad": "坏"} for i in range(12)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    columns = {"prompt": "ask", "chosen": "good", "rejected": "bad"}
    data = Data(train=str(path), test=str(path), columns=columns)
    bare = make_dataset_source(data, SMALL).rows(0).train
    assert {turn["role"] for prompt in bare["prompt"] for turn in prompt} == {"text"}
    assert "12 of 12 prompts are plain text" in caplog.text
    turns = make_dataset_source(replace(data, text_prompts="user"), SMALL).rows(0).train
    assert {turn["role"] for prompt in turns["prompt"] for turn in prompt} == {"user"}
    assert all(answer == answer.strip() for answer in turns["chosen"])


def test_a_plan_refuses_a_mode_that_needs_a_model() -> None:
    with pytest.raises(PlanError, match="text_prompts is 'auto'; give `user` .* or `verbatim`"):
        Data(train="a", test="b", text_prompts="auto")


def test_demonstrations_are_read_as_the_plan_says(tmp_path: Path) -> None:
    """They have one answer, so that not all columns of the mapping are there."""
    pairs, good = tmp_path / "pairs.jsonl", tmp_path / "good.jsonl"
    shapes = {pairs: {"good": "好", "bad": "坏", "says": "好"}, good: {"says": " 好"}}
    for path, row in shapes.items():
        rows = [{"ask": f"{path.stem} {i}？", **row} for i in range(12)]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    columns = {"prompt": "ask", "chosen": "good", "rejected": "bad", "response": "says"}
    data = Data(train=str(pairs), test=str(pairs), columns=columns, demonstrations=str(good), text_prompts="user")
    read = make_dataset_source(data, SMALL).rows(0).demonstrations
    assert read is not None and read[0] == {"prompt": [{"role": "user", "content": "good 0？"}], "response": "好"}

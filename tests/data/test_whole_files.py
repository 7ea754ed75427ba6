"""What no row says alone: where a verdict counts from, what JSON in a cell means, and whether a prompt is implicit."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given
from hypothesis import strategies as st

from prefopt.data import DataError, load, load_preferences, load_sft
from prefopt.data.adapters.cells import decoded
from tests.helpers.shapes import BAD, BETTER, GOOD, MULTI, WORSE, ZH, Q, bot, user

TWO = {"prompt": Q, "answer_1": "first", "answer_2": "second"}


def pointing(values: list[Any], column: str = "better", names: tuple[str, str] = ("answer_1", "answer_2")) -> list[Any]:
    return [{"prompt": Q, names[0]: "first", names[1]: "second", column: value} for value in values]


@pytest.mark.parametrize("column", ["better", "preferred", "winner", "chosen_index", "best_response_id"])
@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        ([0, 1], ["first", "second"]),
        ([1, 2], ["first", "second"]),
        (["0", 1.0], ["first", "second"]),
        ([1, 1, 1, 0], ["second"] * 3 + ["first"]),
        ([1, 1, "2"], ["first", "first", "second"]),
        (["answer_1", "answer 2"], ["first", "second"]),
    ],
)
@pytest.mark.parametrize("names", [("answer_1", "answer_2"), ("response_1", "response_2"), ("output1", "output2")])
def test_a_place_is_counted_as_the_whole_file_does(
    names: tuple[str, str], values: list[Any], chosen: list[str], column: str
) -> None:
    assert load_preferences(pointing(values, column, names))["chosen"] == chosen


@pytest.mark.parametrize("names", [("response_a", "response_b"), ("response_A", "response_B")])
def test_letters_have_places_too(names: tuple[str, str]) -> None:
    assert load_preferences(pointing([0, 1, 1], "winner", names))["chosen"] == ["first", "second", "second"]
    assert load_preferences(pointing([2, 1], "winner", names))["chosen"] == ["second", "first"]


def test_the_row_that_tells_may_be_the_last_of_many() -> None:
    assert load_preferences(pointing([1] * 200 + [0]))["chosen"] == ["second"] * 200 + ["first"]
    assert load_preferences(pointing([1] * 200 + [2]))["chosen"] == ["first"] * 200 + ["second"]


@pytest.mark.parametrize(
    ("values", "column", "names", "message"),
    [
        ([1, 1], "better", ("answer_1", "answer_2"), "may be counted from 0 or from 1.*write 'answer_1' or 'answer_2'"),
        ([0, 1, 2], "better", ("answer_1", "answer_2"), "may be counted from 0 or from 1"),
        ([1, 1], "winner", ("response_a", "response_b"), "may be counted from 0 or from 1"),
        ([0, 1], "label", ("answer_1", "answer_2"), "or say whether the first is better"),
        ([0, 1], "preference", ("response_a", "response_b"), "or say whether the first is better"),
    ],
)
def test_where_a_file_does_not_tell_it_is_refused(
    values: list[Any], column: str, names: tuple[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=f"dropped {len(values)}: field '{column}': has .*{message}"):
        load_preferences(pointing(values, column, names))


def test_columns_that_count_from_zero_say_so() -> None:
    rows = [{"prompt": Q, "response_0": "first", "response_1": "second", "better_response_id": 1}] * 2
    assert load_preferences(rows)["chosen"] == ["second"] * 2
    assert load_preferences(pointing([1, 1], "chosen_index"))["chosen"] == ["second"] * 2


# Classes


@pytest.mark.parametrize(
    ("column", "names", "good"),
    [
        ("label", ["chosen", "rejected"], [True, False]),
        ("label", ["bad", "good"], [False, True]),
        ("is_safe", ["is_safe", "not_safe"], [True, False]),
        ("label", ["0", "1"], [False, True]),
    ],
)
@pytest.mark.parametrize("form", ["memory", "parquet", "saved", "stream", "transformed"])
def test_a_class_is_its_name(column: str, names: list[str], good: list[bool], form: str, tmp_path: Path) -> None:
    text = Value("string")
    features = Features({"prompt": text, "completion": text, column: ClassLabel(names=names)})
    rows = [{"prompt": ZH, "completion": GOOD, column: 0}, {"prompt": Q, "completion": BAD, column: 1}]
    source: Any = Dataset.from_list(rows, features=features)
    if form == "parquet":
        source.to_parquet(tmp_path / "x.parquet")
        source = tmp_path / "x.parquet"
    if form == "saved":
        source.save_to_disk(tmp_path / "x")
        source = tmp_path / "x"
    if form == "stream":
        source = source.to_iterable_dataset()
    if form == "transformed":
        source = source.with_transform(lambda batch: batch)
    assert load(source, "unpaired")[0]["label"] == good


def test_the_class_of_a_verdict_is_its_name_too() -> None:
    rows = pointing([0, 1, -1], "winner", ("response_a", "response_b"))
    features = Features({name: Value("string") for name in rows[0]} | {"winner": ClassLabel(names=["b", "a"])})
    dataset, report = load(Dataset.from_list(rows, features=features))
    assert dataset["chosen"] == ["second", "first"] and report.dropped.total() == 1  # -1 is no class


# Several answers and what points at one


@pytest.mark.parametrize(
    "row",
    [
        {"responses": [WORSE, BETTER], "chosen_index": 1},
        {"responses": [WORSE, BETTER], "best": BETTER},
        {"responses": [WORSE, BETTER], "selected": [False, True]},
        {"responses": [{"text": WORSE, "chosen": False}, {"text": BETTER, "chosen": True}]},
        {"responses": [{"text": WORSE, "is_selected": 0}, {"text": BETTER, "is_selected": 1}, {"text": "?"}]},
        {"response_1": WORSE, "response_2": BETTER, "selected": "response_2"},
        {"completion_a": WORSE, "completion_b": BETTER, "chosen": "b"},
    ],
)
def test_the_answer_that_is_pointed_at_is_the_best(row: dict[str, Any]) -> None:
    row = {"question": Q, **row}
    assert load_sft([row, row])["response"] == [BETTER] * 2
    pairs = load_preferences([row])
    best = pairs[0]["responses"][0] if "responses" in pairs.column_names else pairs[0]["chosen"]
    assert best == BETTER


def test_places_in_lists_are_counted_as_the_file_does() -> None:
    rows = [{"question": Q, "responses": ["a", "b", "c"], "selected": place} for place in (1, 3)]
    assert load_sft(rows)["response"] == ["a", "c"]
    rows[1]["selected"] = 0
    assert load_sft(rows)["response"] == ["b", "a"]
    with pytest.raises(DataError, match="'selected': does not tell which response is the best"):
        load_sft([rows[0]])


def test_two_answers_in_no_order_are_no_demonstration() -> None:
    with pytest.raises(DataError, match="no score or rank says which is the best"):
        load_sft([{"question": Q, "responses": [WORSE, BETTER]}])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"responses": ["x", "y"], "scores": [1, 2], "ranks": [1, 2]}, "'scores' and 'ranks' contradict"),
        (
            {"responses": [{"text": "x", "score": 1, "rank": 1}, {"text": "y", "score": 2, "rank": 2}]},
            "'score' and 'rank' contradict",
        ),
        ({"responses": ["x", "y"], "scores": [1, 2], "chosen_index": 0}, "'scores' and 'chosen_index' contradict"),
        (
            {"response_a": "x", "response_b": "y", "winner": "a", "score_a": 1, "score_b": 2},
            "'score_a' and 'score_b' say the opposite of 'winner'",
        ),
        (
            {"response_a": "x", "response_b": "y", "winner": "a", "rank_a": 2, "rank_b": 1},
            "'rank_a' and 'rank_b' say the opposite of 'winner'",
        ),
    ],
)
def test_orders_that_contradict_each_other_are_dropped_and_counted(row: dict[str, Any], message: str) -> None:
    good = {"question": Q, "responses": ["x", "y"], "scores": [2, 1], "ranks": [1, 2]}
    if "response_a" in row:
        good = {"question": Q, **row, "winner": "b", "rank_a": 2, "rank_b": 1, "score_a": 1, "score_b": 2}
    dataset, report = load([good, {"question": Q, **row}])
    assert len(dataset) == 1
    assert [(message in reason, count) for reason, count in report.dropped.items()] == [(True, 1)]


# Text that happens to be JSON, and turns as text

JSON_ANSWERS = ['["a"]', '{"a": 1}', "[1, 2]", '{"text": "x"}', '["a", "b"]']


@pytest.mark.parametrize("answer", JSON_ANSWERS)
@pytest.mark.parametrize("others", ["plain", "none", "alike"])
def test_an_answer_that_is_json_is_text(answer: str, others: str) -> None:
    more = {"plain": ["said plainly"], "none": [], "alike": ["[3]"]}[others]
    rows = [{"prompt": Q, "chosen": each, "rejected": WORSE} for each in (answer, *more)]
    assert load_preferences(rows)["chosen"] == [answer, *more]
    assert load_sft([{"prompt": Q, "response": each} for each in (answer, *more)])["response"] == [answer, *more]


@pytest.mark.parametrize("prompt", ['["a"] is what?', '{"city": "奥斯陆"}', "[1, 2, 3]"])
def test_a_prompt_that_is_json_is_text(prompt: str) -> None:
    rows = load_preferences([{"prompt": prompt, "chosen": BETTER, "rejected": WORSE}])
    assert rows[0]["prompt"] == [{"role": "text", "content": prompt}]


def test_turns_as_text_are_turns_where_the_whole_column_is_so() -> None:
    cell = '[{"role": "assistant", "content": "%s"}]'
    rows = [{"prompt": Q, "chosen": cell % "yes", "rejected": cell % "no"}] * 2
    assert load_preferences(rows)["chosen"] == ["yes", "yes"]
    mixed = [{"prompt": Q, "chosen": "yes", "rejected": "no"}, rows[0]]
    dataset, report = load(mixed)
    assert dataset["chosen"] == ["yes"]
    assert ["other rows have plain text there" in reason for reason in report.dropped] == [True]
    mixed = [{"prompt": Q, "response": "yes"}, {"prompt": Q, "response": cell % "yes"}]
    assert load_sft(mixed)["response"] == ["yes"]


TALK = [user("it's [here] {now} }\n{"), bot("\"so' \\"), *MULTI[:1], bot(ZH)]


@pytest.mark.parametrize("write", [str, lambda turns: str(np.array(turns)), lambda turns: repr(np.array(turns))])
def test_turns_as_python_prints_them_are_turns(write: Any, tmp_path: Path) -> None:
    assert decoded(write(TALK)) == TALK
    pd.DataFrame({"messages": [write(TALK)] * 2}).to_csv(tmp_path / "x.csv", index=False)
    row = load_sft(tmp_path / "x.csv")[0]
    assert row["prompt"] == TALK[:1] and [row["response"], *(t["content"] for t in row["later_turns"])] == [
        turn["content"] for turn in TALK[1:]
    ]


@given(st.lists(st.dictionaries(st.sampled_from(["role", "content"]), st.text(), min_size=1), min_size=1, max_size=4))
def test_what_python_prints_is_read_back(turns: list[dict[str, str]]) -> None:
    assert decoded(str(turns)) == turns
    assert decoded(str(np.array(turns, dtype=object))) == turns


@pytest.mark.parametrize(
    "cell",
    [
        "[{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'A long ans...",
        "[{'role': 'user', 'content': open('x')}]",
        "[{'role': 'user', 'content': nan}]",
    ],
)
def test_turns_that_cannot_be_read_back_are_no_text(cell: str) -> None:
    with pytest.raises(DataError, match="field 'chosen': has the text of turns, which is cut or no JSON"):
        load_preferences([{"prompt": Q, "chosen": cell, "rejected": WORSE}])


# Implicit prompts


def test_a_prompt_that_is_null_in_one_row_is_not_implicit() -> None:
    rows = [
        {"prompt": Q, "chosen": BETTER, "rejected": WORSE},
        {"prompt": None, "chosen": "I am here", "rejected": "I am away"},
    ]
    dataset, report = load(rows)
    assert len(dataset) == 1
    assert report.dropped == {"no prompt: column 'prompt' is empty here, and has it in other rows": 1}


@pytest.mark.parametrize("name", ["problem", "题目"])
@pytest.mark.parametrize("value", [["What is it?"], "What is it?", {"text": "这是什么东西？"}])
def test_nor_beside_a_column_that_may_be_it(name: str, value: Any) -> None:
    rows = [{"chosen": "I am here", "rejected": "I am away"}, {name: value, "chosen": "I am a", "rejected": "I am b"}]
    with pytest.raises(DataError, match=f"column '{name}' "):
        load_preferences(rows)


def test_answers_that_begin_alike_by_chance_have_no_prompt() -> None:
    rows = [{"chosen": f"{n} yes", "rejected": f"no {n}"} for n in range(5)]
    with pytest.raises(DataError, match="dropped 1: no prompt: no column is one, and the answers of other rows begin"):
        load_preferences([*rows, {"chosen": "I am here", "rejected": "I am away"}])


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "answers"),
    [
        ("User: hi\nAssistant: I am x", "User: hi\nAssistant: I am y", user("hi"), ("I am x", "I am y")),
        ("用户：你好\n助手：我是好的", "用户：你好\n助手：我是坏的", user("你好"), ("我是好的", "我是坏的")),
        (
            "### Instruction:\nSay\n\n### Response:\nI am x",
            "### Instruction:\nSay\n\n### Response:\nI am y",
            {"role": "text", "content": "### Instruction:\nSay\n\n### Response:\n"},
            ("I am x", "I am y"),
        ),
        (
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nI am x<|im_end|>",
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nI am y<|im_end|>",
            user("hi"),
            ("I am x", "I am y"),
        ),
        ("Привет мир", "Привет мама", {"role": "text", "content": "Привет"}, (" мир", " мама")),
        ("a café", "a cafés", {"role": "text", "content": "a"}, (" café", " cafés")),
        (
            "天空是什么颜色？是蓝色",
            "天空是什么颜色？是绿色",
            {"role": "text", "content": "天空是什么颜色？"},
            ("是蓝色", "是绿色"),
        ),
        (
            "你好，天空是什么颜色?是蓝色",
            "你好，天空是什么颜色?是绿色",
            {"role": "text", "content": "你好，天空是什么颜色?"},
            ("是蓝色", "是绿色"),
        ),
    ],
)
def test_an_implicit_prompt_ends_where_an_answer_or_a_word_begins(
    chosen: str, rejected: str, prompt: dict[str, str], answers: tuple[str, str]
) -> None:
    row = load_preferences([{"chosen": chosen, "rejected": rejected}])[0]
    assert (row["prompt"], (row["chosen"], row["rejected"])) == ([prompt], answers)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "may_divide"),
    [
        ("中国的首都，是北京", "中国的首都，是南京", "中国的首都，是", True),
        ("我喜欢苹果", "我喜欢苹子", "我喜欢苹", True),
        ("天空是什么颜色？是蓝色", "天空是什么颜色？是绿色", "天空是什么颜色？", False),
        ("中国的首都，北京", "中国的首都，南京", "中国的首都，", False),
        ("I am here", "I am away", "I am", False),
    ],
)
def test_an_implicit_prompt_that_may_end_within_a_word_is_counted(
    chosen: str, rejected: str, prompt: str, may_divide: bool
) -> None:
    dataset, report = load([{"chosen": chosen, "rejected": rejected}])
    assert dataset[0]["prompt"] == [{"role": "text", "content": prompt}]
    assert prompt + dataset[0]["chosen"] == chosen and prompt + dataset[0]["rejected"] == rejected
    assert [what.split(":")[0] for what in report.repaired] == [
        "implicit prompt cut before the first character that differs, be it within a word"
    ] * may_divide


# What is said twice


def test_a_label_repeats_no_answer() -> None:
    with pytest.raises(DataError, match="column 'label' tells what the row means, and is not read"):
        load_preferences([{"prompt": Q, "chosen": "1", "rejected": "2", "label": 1}])
    with pytest.raises(DataError, match="column 'query' tells"):
        load_preferences([{"prompt": Q, "chosen": "yes", "rejected": "no", "query": "yes"}])
    same = {"prompt": Q, "chosen": "yes", "rejected": "no", "query": Q}
    assert load([same])[1].unread == {}


def test_history_that_the_prompt_repeats_is_said_once() -> None:
    earlier = [["Hello", "Hi."]]
    answers = {"chosen": BETTER, "rejected": WORSE}
    for history, prompt in ((earlier, MULTI), (MULTI, MULTI[-1:]), (MULTI, Q)):
        dataset, report = load([{"history": history, "prompt": prompt, **answers}])
        assert dataset[0]["prompt"] == MULTI
        assert report.repaired == {"history that the prompt repeats left out": 1}
    dataset, report = load([{"history": earlier, "prompt": Q, **answers}])
    assert dataset[0]["prompt"] == MULTI and not report.repaired


@pytest.mark.parametrize(
    ("texts", "said", "repair"),
    [
        (["S", "S"], "S", "a system turn that is said twice left out"),
        (["S", "T"], "S\n\nT", "system turns merged"),
    ],
)
def test_a_conversation_has_one_system_turn(texts: list[str], said: str, repair: str) -> None:
    systems = [{"role": "system", "content": text} for text in texts]
    dataset, report = load([{"messages": [*systems, user(Q), bot(BETTER)]}], "sft")
    assert dataset[0]["prompt"] == [{"role": "system", "content": said}, user(Q)]
    assert report.repaired == {repair: 1}


@pytest.mark.parametrize("human", ["One.", ["One."], None])
@pytest.mark.parametrize("machine", ["Two.", ["", "Two."]])
def test_answers_that_are_one_text_are_one_answer(human: Any, machine: Any) -> None:
    rows = [{"question": Q, "human_answers": human, "chatgpt_answers": machine}] * 2
    assert load_sft(rows)["response"] == ["Two.", "Two."]


# A mapping of columns


def test_a_mapped_column_may_be_null_or_lacking_in_the_first_rows() -> None:
    good = {"good": BETTER, "bad": WORSE}
    names = {"question": "ask", "chosen": "good", "rejected": "bad", "system": "sys"}
    rows = [{"ask": Q, "sys": None, **good}, {"ask": Q, "sys": "S", **good}, {"ask": None, "sys": "S", **good}]
    dataset, report = load(rows, columns=names)
    assert [len(row["prompt"]) for row in dataset] == [1, 2] and report.dropped.total() == 1
    assert len(load([{"ask": Q, **good}, *rows], columns=names)[0]) == 3
    with pytest.raises(DataError, match="columns names 'sys', which none of the first 2 rows has"):
        load([{"ask": Q, **good}] * 2, columns=names)

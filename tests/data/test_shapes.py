"""Shapes of rows that people publish and keep: each is read as documented, or refused with its column named."""

from typing import Any

import pytest

from prefopt.data import DataError, load, load_preferences
from tests.helpers.more_shapes import MORE, REFUSED_TOO
from tests.helpers.shapes import BETTER, HUB, MULTI, READ, SYSTEM, WORSE, Q, bot, user

SHAPES = [*READ, *MORE]


@pytest.mark.parametrize(
    ("name", "source", "purpose", "row", "meaning"), SHAPES, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(SHAPES)]
)
def test_a_published_shape_is_read(
    name: str, source: str, purpose: str, row: dict[str, Any], meaning: dict[str, Any]
) -> None:
    dataset, report = load([row, row], purpose)
    assert report.adapter == name and len(dataset) == 2
    assert {column: dataset[0][column] for column in meaning} == meaning
    assert set(dataset.column_names) - set(meaning) <= {"prompt"}


REFUSED: list[tuple[str, str, dict[str, Any], str]] = [  # whose, purpose, a row, which column the message names
    (HUB + "OpenAssistant/oasst1", "sft", {"text": BETTER, "role": "assistant", "parent_id": "a"}, "role"),
    (
        "OpenAI tools",
        "sft",
        {"messages": [user(Q), {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
        "messages",
    ),
    ("tools in use", "sft", {"messages": [user(Q), bot(BETTER)], "tools": ["clock"]}, "tools"),
    ("samples in no order", "sft", {"prompt": Q, "responses": [WORSE, BETTER, "?"]}, "score or rank"),
    ("images", "sft", {"messages": [{"role": "user", "content": [{"type": "image"}]}, bot(BETTER)]}, "image"),
    ("a bad answer", "sft", {"prompt": Q, "completion": WORSE, "label": "false"}, "labelled as a bad one"),
    ("a category", "sft", {"prompt": Q, "completion": BETTER, "label": "cooking"}, "label"),
    ("a weight", "sft", {"prompt": Q, "completion": BETTER, "weight": 0.5}, "weight"),
    ("a tie", "preferences", {"prompt": Q, "response_a": BETTER, "response_b": WORSE, "winner": "tie"}, "tie"),
    (
        "an unknown verdict",
        "preferences",
        {"prompt": Q, "response_1": BETTER, "response_2": WORSE, "label": 0},
        "label",
    ),
    ("a prompt of another name", "preferences", {"ask": "What is it?", "chosen": BETTER, "rejected": "No."}, "ask"),
    ("no prompt", "preferences", {"id": 3, "chosen": BETTER, "rejected": "No."}, "no prompt"),
    (
        "turns under another name",
        "preferences",
        {"before": MULTI, "prompt": "More?", "chosen": BETTER, "rejected": WORSE},
        "before",
    ),
    (
        "two systems",
        "preferences",
        {"system": "Be long.", "prompt": [SYSTEM, user(Q)], "chosen": BETTER, "rejected": WORSE},
        "system",
    ),
    (
        "context in text",
        "preferences",
        {"context": "A text.", "question": Q, "chosen": BETTER, "rejected": WORSE},
        "context",
    ),
    ("a label on a pair", "preferences", {"prompt": Q, "chosen": BETTER, "rejected": WORSE, "label": 0}, "label"),
    (
        "ranks of some",
        "preferences",
        {"prompt": Q, "answers": [{"answer": BETTER, "rank": 1}, {"answer": WORSE}]},
        "rank",
    ),
    (
        "numbers that are no scores",
        "preferences",
        {"prompt": Q, "answers": [{"answer": BETTER, "tokens": 3}, {"label": 1}]},
        "answers",
    ),
]


REFUSALS = [*REFUSED, *REFUSED_TOO]


@pytest.mark.parametrize(("what", "purpose", "row", "named"), REFUSALS, ids=[what for what, *_ in REFUSALS])
def test_what_cannot_be_read_is_refused_and_named(what: str, purpose: str, row: dict[str, Any], named: str) -> None:
    with pytest.raises(DataError, match=named):
        load([row, row], purpose)


PAIR_OF_TWO = {"prompt": "P?", "response_a": "x", "response_b": "y"}


@pytest.mark.parametrize(
    ("verdict", "chosen"),
    [
        ("a", "x"),
        ("B", "y"),
        ("model_a", "x"),
        ("[[B]]", "y"),
        ("Response B", "y"),
        ("response_a", "x"),
        ("llama", "y"),
    ],
)
def test_a_verdict_names_an_answer_by_its_column_or_its_model(verdict: str, chosen: str) -> None:
    rows = [{**PAIR_OF_TWO, "model_a": "gpt-4", "model_b": "Llama", "winner": verdict}]
    assert load_preferences(rows)[0]["chosen"] == chosen


@pytest.mark.parametrize("verdict", ["A>B", "B>A", "A=B", "两者都不是A", "claude-a", "x"])
def test_a_verdict_that_only_ends_on_a_letter_names_nothing(verdict: str) -> None:
    with pytest.raises(
        DataError, match=f"field 'winner': is {verdict!r}, which names neither response_a nor response_b"
    ):
        load_preferences([{**PAIR_OF_TWO, "winner": verdict}], strict=True)


@pytest.mark.parametrize(
    ("columns", "good"),
    [
        ({"chosen": True}, True),
        ({"chosen": 0}, False),
        ({"chosen": "false"}, False),
        ({"rejected": True}, False),
        ({"chosen": True, "rejected": False}, True),
        ({"preferred": False}, False),
        ({"is_preferred": 1}, True),
        ({"correct": False}, False),
        ({"is_correct": True}, True),
        ({"thumbs_up": False}, False),
        ({"label": 1, "weight": 1.0}, True),
        ({"label": False, "is_safe": "no"}, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("row", [{"prompt": Q, "response": BETTER}, {"messages": [user(Q), bot(BETTER)]}], ids=str)
def test_true_or_false_beside_a_single_answer_is_its_label(
    row: dict[str, Any], columns: dict[str, Any], good: bool
) -> None:
    rows, report = load([{**row, **columns}], "unpaired")
    assert rows["label"] == [good] and not report.unread
    if good:
        assert len(load([{**row, **columns}], "sft")[0]) == 1
    else:
        with pytest.raises(DataError, match="labelled as a bad one"):
            load([{**row, **columns}], "sft")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"chosen": 0.5}, "column 'chosen' tells what the row means"),
        ({"chosen": "cooking"}, "column 'chosen' tells what the row means"),
        ({"chosen": True, "rejected": True}, "fields 'chosen' and 'rejected' contradict each other"),
        ({"label": True, "weight": 0}, "fields 'label' and 'weight' contradict each other"),
    ],
    ids=str,
)
def test_what_is_no_label_is_refused_by_its_name(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load([{"prompt": Q, "response": BETTER, **columns}], "sft")


@pytest.mark.parametrize("value", ["Paris", 3, "A"])
def test_such_columns_may_say_something_else(value: Any) -> None:
    rows, report = load([{"prompt": Q, "response": BETTER, "correct": value}], "sft")
    assert rows["response"] == [BETTER] and report.unread == {"correct": 1} and report.telling == {"correct"}


def test_a_preference_between_one_and_two_is_no_verdict() -> None:
    """AlpacaEval's weighted annotators give 1.81 where the second output is better."""
    row = {"instruction": "P?", "output_1": "x", "output_2": "y", "preference": 1.81}
    with pytest.raises(DataError, match="is 1.81, which names neither output_1 nor output_2"):
        load_preferences([row], strict=True)


def test_a_row_without_its_column_is_dropped_and_counted() -> None:
    good = {"query": "x", "responses": ["a", "b"], "scores": [1, 2]}
    rows, report = load([good, good, {**good, "responses": None}])
    assert len(rows) == 2 and "field 'responses': missing" in "\n".join(report.lines())

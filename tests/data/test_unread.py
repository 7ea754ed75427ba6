"""No column is left out unseen: each one changes what is read, or is named as unread and then changes nothing."""

import copy
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prefopt.data import DataError, load, load_preferences
from tests.helpers.more_shapes import MORE
from tests.helpers.shapes import BETTER, MULTI, READ, WORSE, Q, bot, user

ZEBRA = "zebra"
NAMES = [
    *("id", "source", "note", "system", "history", "context", "messages", "query", "prompt", "label", "score", "input"),
    *(
        "instruction",
        "rejected",
        "rating",
        "turn",
        "weight",
        "responses",
        "margin",
        "tools",
        "chat_template_kwargs",
        "answer",
        "text",
        "题",
    ),
]
VALUES = st.sampled_from(
    [
        *(
            "x",
            "a few words",
            "几个汉字在这里",
            3,
            0.5,
            True,
            "",
            [],
            [user("Hm?")],
            [["Hm?", "Ha."]],
            {"text": "word"},
            [{"name": "clock"}],
        ),
        *([user(Q), bot(BETTER)], '[{"role": "user", "content": "Hm?"}]', "true", ["a", "b"]),
    ]
)


def outcome(row: dict[str, Any], purpose: str) -> tuple[Any, set[str]]:
    """The rows that are read, or the reason why there are none; and the columns that are named as unread."""
    try:
        dataset, report = load([row, row], purpose)
    except DataError as error:
        return str(error), set()
    return dataset.to_list(), set(report.unread)


def changed(value: Any) -> Iterator[Any]:
    """The same value with something else in it, in several ways."""
    if isinstance(value, str):
        yield from (value + ZEBRA, ZEBRA, value.replace("a", "b"), [user(ZEBRA)])
    elif isinstance(value, bool):
        yield from (not value, ZEBRA)
    elif isinstance(value, int | float):
        yield from (value + 1, -value - 1, 1 - value, ZEBRA)
    elif isinstance(value, list):
        yield from (
            [*value[:number], new, *value[number + 1 :]] for number, old in enumerate(value) for new in changed(old)
        )
        yield from ([*value, ZEBRA], [user(ZEBRA)], ZEBRA)
    elif isinstance(value, dict):
        yield from ({**value, name: new} for name, old in value.items() for new in changed(old))
        yield ZEBRA
    else:
        yield ZEBRA


@st.composite
def rows(draw: Any) -> tuple[dict[str, Any], str]:
    """A row of a known shape with a column added, renamed or put into an object."""
    _, _, purpose, row, _ = draw(st.sampled_from([*READ, *MORE]))
    row = copy.deepcopy(row)
    for _ in range(draw(st.integers(0, 2))):
        column = draw(st.sampled_from(sorted(row)))
        match draw(st.sampled_from(["add", "rename", "nest"])):
            case "add":
                row[draw(st.sampled_from(NAMES))] = draw(VALUES)
            case "rename":
                row[draw(st.sampled_from([*NAMES, column.upper(), column + "_1"]))] = row.pop(column)
            case "nest":
                row[column] = {draw(st.sampled_from(["text", "value", "x"])): row[column]}
    return row, purpose


@given(rows())
def test_a_column_changes_what_is_read_or_is_named(case: tuple[dict[str, Any], str]) -> None:
    row, purpose = case
    read, unread = outcome(row, purpose)
    assume(isinstance(read, list))
    for name, value in row.items():
        if value in (None, "", [], {}) or (
            name == "turn" and purpose == "preferences"
        ):  # says nothing; one exchange only
            continue
        results = (outcome({**row, name: new}, purpose)[0] for new in changed(value))
        if name in unread:
            same_kind = [new for new in changed(value) if type(new) is type(value)][:1]
            assert all(outcome({**row, name: new}, purpose)[0] == read for new in same_kind), name
        else:
            assert any(result != read for result in results), f"{name} is read, and says nothing"


def test_unread_columns_are_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"query": Q, "chosen": BETTER, "rejected": WORSE, "id": 1},
        {"query": "Hm?", "chosen": "a", "rejected": "b"},
    ]
    with caplog.at_level(logging.INFO, "prefopt.data"):
        _, report = load(rows)
    assert report.unread == {"id": 1} and report.to_dict()["unread_columns"] == {"id": 1}
    assert "columns that are not read: id (1)" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "telling"),
    [
        ("id", 3, False),
        ("source", "my forum", False),
        ("created", "2024-01-01 10:00", False),
        ("quality_score", 3, True),
        ("is_safer", True, True),
        ("safe", 1, True),
        ("critique", "The answer is short and does not say why.", True),
        ("点评", "这个回答很短，也没有说明为什么。", True),
    ],
)
def test_a_warning_is_given_once_for_columns_that_seem_to_say_something(
    name: str, value: Any, telling: bool, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"query": Q, "chosen": BETTER, "rejected": WORSE, name: value}
    with caplog.at_level(logging.INFO, "prefopt.data"):
        _, report = load([row, {**row, "query": "Hm?"}])
    said = [(record.levelname, record.getMessage()) for record in caplog.records if name in record.getMessage()]
    start = "columns that are not read" + (", and seem to say something" if telling else "")
    assert said == [("WARNING" if telling else "INFO", f"{start}: {name} (2)")]
    assert report.to_dict()["unread_and_telling"] == ([name] if telling else [])


def test_columns_that_a_mapping_leaves_out_are_looked_at_like_others(caplog: pytest.LogCaptureFixture) -> None:
    row = {"ask": Q, "good": BETTER, "bad": WORSE, "system": "x", "said": MULTI, "id": 3}
    with caplog.at_level(logging.INFO, "prefopt.data"):
        load([row], columns={"question": "ask", "chosen": "good", "rejected": "bad"})
    messages = {record.getMessage(): record.levelname for record in caplog.records}
    assert messages["columns that are not read, and seem to say something: system (1), said (1)"] == "WARNING"
    assert messages["columns that are not read: id (1)"] == "INFO"


def test_columns_that_a_format_is_known_to_leave_out_are_no_news() -> None:
    row = {"prompt": Q, "answer_0": BETTER, "answer_1": WORSE, "score_0": 2, "score_1": 1, "score_ratio": 2}
    shp = {"history": Q, "human_ref_A": BETTER, "human_ref_B": WORSE, "labels": 1, "score_A": 9, "score_ratio": 2.0}
    assert load([shp])[1].telling == set() and load([row])[1].telling == {"score_ratio"}


def test_what_an_adapter_of_your_own_leaves_out_is_named_too() -> None:
    from prefopt.data import Candidates, Turn, register
    from prefopt.data.adapters import REGISTRY

    @register("forum", kind="pair", fields="ask, up, down", recognises=lambda row: "ask" in row)
    def read(row: dict[str, Any]) -> Candidates:
        return Candidates((Turn("user", row["ask"]),), (row["up"], row.get("down")))

    try:
        _, report = load([{"ask": "Hm?", "up": "a", "down": "b", "system": "x", "votes": 3}])
        assert report.unread == {"system": 1, "votes": 1}
    finally:
        del REGISTRY["forum"]


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ({"question": "ask", "chosen": "good", "rejected": "bad"}, {"ask": Q, "good": BETTER, "bad": WORSE}),
        ({"query": "in.text", "chosen": "out.0", "rejected": "out.1"}, {"in": {"text": Q}, "out": [BETTER, WORSE]}),
        (
            {"messages": "said", "chosen": "a", "rejected": "b"},
            {"said": MULTI[-1:], "a": BETTER, "b": WORSE, "label": 0},
        ),
    ],
)
def test_columns_of_the_users_own(columns: dict[str, str], row: dict[str, Any]) -> None:
    dataset = load_preferences([row], columns=columns)
    assert dataset[0] == {"prompt": [user(Q)], "chosen": BETTER, "rejected": WORSE}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"promt": "ask"}, "no format reads 'promt'; did you mean prompt"),
        ({"prompt": "asked"}, "columns names 'asked', which the row has not; did you mean ask"),
        ({"prompt": 3}, "'prompt' is 3, expected the name of a column"),
        (["prompt"], "expected a mapping"),
    ],
)
def test_a_mapping_that_fits_nothing_is_an_error(columns: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_preferences([{"ask": Q, "good": BETTER, "bad": WORSE}], columns=columns)


@pytest.mark.parametrize(("better", "worse", "what"), [(3.0, 3.0, "the same score"), (2.0, 3.0, "a higher score")])
def test_ties_and_reversed_scores_are_counted_and_dropped_if_asked(better: float, worse: float, what: str) -> None:
    odd = {"query": Q, "chosen": BETTER, "rejected": WORSE, "chosen_score": better, "rejected_score": str(worse)}
    rows = [odd, {**odd, "chosen_score": 9}]
    dataset, report = load(rows)
    assert len(dataset) == 2 and dataset[0]["score_rejected"] == worse
    assert [(what in note, count) for note, count in report.noted.items()] == [(True, 1)]
    dataset, report = load(rows, ties="drop")
    assert dataset["score_chosen"] == [9.0]
    assert [(what in reason, count) for reason, count in report.dropped.items()] == [(True, 1)]
    with pytest.raises(DataError, match="ties='no'"):
        load(rows, ties="no")

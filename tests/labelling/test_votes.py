"""What several annotators say becomes the preference that they share, and of both orders what holds in both."""

from __future__ import annotations

from typing import Any

import pytest

from prefopt.labelling import Judgment, LabelPair, pairs_to_label
from prefopt.labelling.votes import opinions_of, rows_of
from tests.helpers.labels import candidates, side_of

PAIRS = pairs_to_label(candidates(1, 2), count=1, seed=0, repeats=1)
"""One pair, shown in both orders; the first candidate is the better one below."""
ONCE, AGAIN = sorted(PAIRS, key=lambda pair: pair.repeat)


def says(name: str, choice: str, grade: str | None = None, pair: LabelPair = ONCE, time: str | None = None) -> Judgment:
    """`choice` "first" and "second" are candidates, whichever side they stand on."""
    wanted = {"first": pair.first, "second": pair.second}.get(choice)
    return Judgment(pair.id, name, choice if wanted is None else side_of(pair, wanted), grade, time=time)


def decided(*judgments: Judgment, **how: Any) -> tuple[list[str], dict[str, int]]:
    rows, without = rows_of(opinions_of(PAIRS, judgments), **how)
    names = {ONCE.texts[0]: ONCE.shown[0], ONCE.texts[1]: ONCE.shown[1]}
    return ["first" if names[row["chosen"]] == ONCE.first else "second" for row in rows], without


def test_a_row_knows_where_it_comes_from() -> None:
    judgments = [says("李", "second", "slightly", time="2026-11-30T09:00:00.000Z")]
    rows, without = rows_of(opinions_of(PAIRS, judgments))
    one, two = ONCE.first, ONCE.second
    assert without == {} and rows == [
        {
            "prompt": [dict(turn) for turn in one.prompt],
            "chosen": two.response,
            "rejected": one.response,
            "grade": "slightly",
            "finished": [True, True],
            "sampled_ids": [list(two.ids or ()), list(one.ids or ())],
            "sampled_by": "tok",
            "pair": ONCE.pair,
            "prompt_key": one.prompt_key,
            "policy": [two.policy, one.policy],
            "round": [0, 0],
            "temperature": [two.temperature, one.temperature],
            "seed": [two.seed, one.seed],
            "annotator": ["李"],
            "support": 1.0,
            "time": "2026-11-30T09:00:00.000Z",
        }
    ]


@pytest.mark.parametrize(
    ("sides", "rows", "without"),
    [
        (["first", "first", "second"], ["first"], {}),
        (["first", "second"], [], {"no majority": 1}),
        (["first", "first", "second", "tie"], [], {"no majority": 1}),
        (["second", "second", "tie"], ["second"], {}),
        (["tie", "tie"], [], {"tie": 1}),
        (["both_bad"], [], {"both bad": 1}),
        (["skip", "first"], ["first"], {}),
        (["skip"], [], {}),
    ],
)
def test_a_majority_is_more_than_half(sides: list[str], rows: list[str], without: dict[str, int]) -> None:
    assert decided(*(says(f"n{place}", side) for place, side in enumerate(sides))) == (rows, without)


def test_weights_count_in_the_place_of_heads() -> None:
    judgments = [says("李", "first"), says("Bo", "second"), says("Al", "second")]
    assert decided(*judgments) == (["second"], {})
    assert decided(*judgments, several="weights", weights={"李": 3}) == (["first"], {})
    assert decided(*judgments, several="weights", weights={"李": 2}) == ([], {"no majority": 1})
    assert decided(*judgments, several="weights", weights={"Bo": 0, "Al": 0}) == (["first"], {})


def test_all_gives_a_row_for_everybody_who_prefers_one() -> None:
    judgments = [says("李", "first"), says("Bo", "second"), says("Al", "tie")]
    assert decided(*judgments, several="all") == (["first", "second"], {"tie": 1})


@pytest.mark.parametrize(
    ("once", "again", "rows", "without"),
    [
        ("first", "first", ["first"], {}),
        ("first", "second", [], {"contradicted": 1}),
        ("first", "tie", [], {"contradicted": 1}),
        ("tie", "tie", [], {"tie": 1}),
        ("both_bad", "tie", [], {"tie": 1}),
        ("both_bad", "both_bad", [], {"both bad": 1}),
        ("skip", "second", ["second"], {}),
    ],
)
def test_of_both_orders_counts_what_holds_in_both(
    once: str, again: str, rows: list[str], without: dict[str, int]
) -> None:
    assert decided(says("李", again, pair=AGAIN), says("李", once)) == (rows, without)


def test_the_same_side_in_both_orders_is_a_flip() -> None:
    (flipped,) = opinions_of(PAIRS, [Judgment(ONCE.id, "李", "a"), Judgment(AGAIN.id, "李", "a")])
    (wavering,) = opinions_of(PAIRS, [Judgment(ONCE.id, "李", "a"), Judgment(AGAIN.id, "李", "tie")])
    assert (flipped.reason, flipped.flipped) == ("contradicted", True)
    assert (wavering.reason, wavering.flipped) == ("contradicted", False)


@pytest.mark.parametrize(
    ("grades", "grade"),
    [
        (["significantly", "slightly", "negligibly"], "slightly"),
        (["significantly", "slightly"], "slightly"),
        (["better"], "better"),
        (["significantly", None], "significantly"),
        ([None], None),
    ],
)
def test_the_grade_is_the_median_and_of_two_the_weaker(grades: list[str | None], grade: str | None) -> None:
    judgments = [says(f"n{place}", "first", each) for place, each in enumerate(grades)]
    ((row,), _) = rows_of(opinions_of(PAIRS, [*judgments, says("other", "tie")] if len(grades) > 1 else judgments))
    assert row.get("grade") == grade


def test_of_both_orders_the_weaker_grade_stays() -> None:
    judgments = [says("李", "first", "significantly"), says("李", "first", "slightly", AGAIN)]
    ((row,), _) = rows_of(opinions_of(PAIRS, judgments))
    assert row["grade"] == "slightly"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"several": "majorty"}, "no such way; did you mean majority"),
        ({"several": "weights"}, "go together: give both or neither"),
        ({"weights": {"李": 2}}, "go together: give both or neither"),
        ({"several": "weights", "weights": {"李": -1}}, "李=-1: a weight is a number from 0 up"),
    ],
)
def test_what_cannot_be_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decided(says("李", "first"), **how)

"""Wins and losses, judges that see both orders, and win rates with length taken out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefopt.compare import Wins, both_orders, length_controlled, wins_by_reward, wins_of


def test_counts_and_the_sign_test_by_hand() -> None:
    found = wins_of([1, 1, 1, 1, 1, 0, 0.5, 0.5])
    assert found == Wins(5, 2, 1) and found.count == 8 and found.rate == 0.75
    assert found.p == pytest.approx(2 * (1 + 6) / 2**6)
    assert Wins(0, 4, 0).p == 1.0 and Wins(0, 4, 0).rate == 0.5
    assert wins_by_reward([1.0, 2.0, 3.0], [1.0, 2.5, 1.0]) == Wins(1, 1, 1)
    assert wins_by_reward([1.0, 2.0, 3.0], [1.0, 2.5, 1.0], tolerance=0.5) == Wins(1, 2, 0)


def test_intervals_of_a_rate() -> None:
    # Six ones and four zeros: sem = sqrt(.24 / 9), t of 9 degrees of freedom 2.2622.
    assert Wins(6, 0, 4).interval() == pytest.approx((0.6 - 2.2622 * 0.16330, 0.6 + 2.2622 * 0.16330), abs=1e-4)
    # Wilson's of 20 in 20: 1 / (1 + 1.96^2 / 20).
    assert Wins(20, 0, 0).interval() == pytest.approx((1 / (1 + 3.8415 / 20), 1.0), abs=1e-4)
    assert Wins(0, 0, 20).interval().high == pytest.approx(1 - 1 / (1 + 3.8415 / 20), abs=1e-4)
    low, high = Wins(0, 20, 0).interval()
    assert low == pytest.approx(1 - high) and low < 0.5 < high


def test_both_orders_must_agree() -> None:
    #        both win, both lose, first twice, first twice, second twice, win and tie, both tie
    ahead, behind = [1, 0, 1, 1, 0, 1, 0.5], [1, 0, 0, 0, 1, 0.5, 0.5]
    found = both_orders(ahead, behind)
    assert found.outcomes.tolist() == [1, 0, 0.5, 0.5, 0.5, 0.5, 0.5] and found.wins == Wins(1, 5, 1)
    assert found.flip_rate == pytest.approx(3 / 7) and found.agreement == pytest.approx(3 / 7)
    assert found.first_preferred == pytest.approx(2 / 3)


def test_a_judge_that_only_sees_places_finds_ties_alone() -> None:
    found = both_orders(np.ones(9), np.zeros(9))
    assert (found.wins, found.flip_rate, found.first_preferred) == (Wins(0, 9, 0), 1.0, 1.0)
    assert math.isnan(both_orders([1, 0], [1, 0]).first_preferred)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Wins(0, 0, 0), "not all 0"),
        (lambda: wins_of([]), "one outcome for each prompt"),
        (lambda: wins_of([1, 0.7]), "1/2 .a tie."),
        (lambda: both_orders([1, 0], [1]), "2 of the first, 1 of the second"),
        (lambda: both_orders([1, 2], [1, 0]), "a loss"),
        (lambda: both_orders([1, math.nan], [1, 0]), "nan at 1"),
        (lambda: wins_by_reward([1.0], [1.0, 2.0]), "1 of the first, 2 of the second"),
        (lambda: length_controlled([1, 1], [3, -2]), "does not vary"),
        (lambda: length_controlled([0, 0], [3, -2]), "does not vary"),
        (lambda: length_controlled([1], [3]), "1 prompt"),
        (lambda: length_controlled([1, 0, 1], [3, 2]), "3 of the first, 2 of the second"),
    ],
)
def test_what_is_refused(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_without_a_difference_in_length_nothing_is_taken_out() -> None:
    found = length_controlled([1, 1, 1, 0, 0.5], np.zeros(5))
    assert found.raw == 0.7 == pytest.approx(found.rate) and found.length_weight == pytest.approx(0.0)


def test_two_lengths_by_hand() -> None:
    # .8 of the prompts won where longer, .4 where shorter: theta is half of logit(.8) + logit(.4), its sigmoid .6202.
    won = np.repeat([1, 0, 1, 0], [8000, 2000, 4000, 6000])
    found = length_controlled(won, np.repeat([30, -30], 10_000))
    assert found.raw == 0.6 and found.rate == pytest.approx(0.62020, abs=1e-4)
    assert found.length_weight == pytest.approx((math.log(4) - math.log(2 / 3)) / 2 / math.tanh(1), abs=1e-3)
    # The variance of half of two logits: (1 / (n p (1 - p)) + ...) / 4.
    error = math.sqrt(1 / 1600 + 1 / 2400) / 2
    low, high = (math.log(each / (1 - each)) for each in found.interval)
    assert high - low == pytest.approx(2 * 1.95996 * error, rel=1e-3) and not found.extrapolated


def test_a_judge_that_only_counts_words_is_found_out() -> None:
    longer_by = np.concatenate([np.full(80, 25), np.full(20, -25)])
    found = length_controlled((longer_by > 0).astype(float), longer_by)
    assert found.raw == 0.8 and found.interval.low < 0.5 < found.interval.high and found.length_weight > 3
    assert length_controlled([1, 1, 0, 1], [4, 6, 9, 5]).extrapolated
    always = length_controlled([1, 1, 0, 1], [7, 7, 7, 7])
    assert always.extrapolated and always.rate == pytest.approx(always.raw, abs=1e-6)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-50, 50)), min_size=4, max_size=30))
def test_swapping_the_sides_gives_the_rest(rows: list[tuple[float, int]]) -> None:
    won, longer_by = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    if won.min() == 1 or won.max() == 0:
        return
    one, other = length_controlled(won, longer_by), length_controlled(1 - won, -longer_by)
    assert one.rate + other.rate == pytest.approx(1.0, abs=1e-4)
    assert one.interval.low == pytest.approx(1 - other.interval.high, abs=1e-3)
    assert one.length_weight == pytest.approx(other.length_weight, abs=1e-3)

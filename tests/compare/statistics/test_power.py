"""Power: published sizes, the same formula by another way, and what no size can show."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefopt.compare import Claim, Design, Spread, detectable, needed, seeds_needed
from prefopt.compare.statistics import power


def test_the_usual_medium_effect_needs_34() -> None:
    # G*Power 3.1, t tests, matched pairs, dz = .5: 34 pairs, actual power .8078; R's power.t.test has n = 33.37.
    assert needed(0.5, 1.0) == 34 and power(0.5, 1.0, 34) == pytest.approx(0.8078, abs=5e-5)
    assert power(0.5, 1.0, 33) < 0.8 < power(0.5, 1.0, 34)
    assert needed(-5.0, 10.0) == 34 and needed(100.0, 1.0) == 2 + 0


def test_nothing_there_is_found_at_the_level() -> None:
    assert power(0.0, 1.0, 12) == pytest.approx(0.05) and power(0.0, 3.0, 5, alpha=0.2) == pytest.approx(0.2)


def test_the_testbed_sees_less_than_half_a_point_with_one_seed() -> None:
    # For many values (1.960 + .842) * spread / sqrt(n).
    assert detectable(2.4, 256) == pytest.approx(2.8016 * 2.4 / 16, rel=0.01)


@settings(max_examples=30)
@given(st.floats(0.1, 10), st.integers(2, 400), st.floats(0.3, 0.95))
def test_detectable_is_the_inverse_of_power(spread: float, n: int, wanted: float) -> None:
    difference = detectable(spread, n, wanted=wanted)
    assert power(difference, spread, n) == pytest.approx(wanted, abs=1e-6)
    assert needed(difference * 1.0001, spread, wanted=wanted) <= n


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: power(1.0, 0.0, 5), "spread=0.0"),
        (lambda: power(1.0, 1.0, 1), "n=1"),
        (lambda: power(1.0, 1.0, 5, alpha=1.0), "alpha=1.0"),
        (lambda: needed(0.0, 1.0), "no number of values"),
        (lambda: needed(1e-6, 1.0), "more than 10000000"),
        (lambda: detectable(1.0, 5, wanted=1.0), "wanted=1.0"),
        (lambda: Design(Spread(0.2, 1.0, 2.0), 1, 256), "1 seeds and 256 prompts"),
        (lambda: Design(Spread(0.0, 0.0, 0.0), 5, 256), "standard deviation above 0"),
        (lambda: seeds_needed(0.1, Spread(0.2, 1.0, 2.0), 256), "more prompts"),
        (lambda: seeds_needed(0.0, Spread(0.2, 1.0, 2.0), 256), "no number of values"),
    ],
)
def test_what_has_no_answer(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_with_prompts_that_stay_a_plan_is_the_t_test_of_seed_means() -> None:
    plan = Design(Spread(0.3, 5.0, 2.0), 5, 100, Claim.SEEDS)
    spread = math.sqrt(0.3**2 + 2.0**2 / 100)
    for difference in (0.0, 0.2, 0.5, 1.0):
        assert plan.power(difference) == pytest.approx(power(difference, spread, 5), abs=1e-4)
    assert plan.detectable() == pytest.approx(detectable(spread, 5), rel=1e-3)


def test_with_seeds_that_stay_a_plan_is_the_t_test_of_prompts() -> None:
    plan = Design(Spread(7.0, 1.0, 2.0), 4, 50, Claim.CHECKPOINTS)
    assert plan.error == pytest.approx(math.sqrt((1 + 4 / 4) / 50))
    assert plan.power(0.5) == pytest.approx(power(0.5, math.sqrt(2.0), 50), abs=1e-4)


def test_more_of_anything_sees_more() -> None:
    spread = Spread(0.25, 1.1, 2.1)
    seen = [Design(spread, seeds, 256).detectable() for seeds in (2, 3, 5, 8)]
    assert seen == sorted(seen, reverse=True)
    assert Design(spread, 5, 1024).power(0.4) > Design(spread, 5, 256).power(0.4)
    assert Design(spread, 5, 256, Claim.METHODS).error > Design(spread, 5, 256, Claim.SEEDS).error
    seeds = seeds_needed(0.5, spread, 256)
    assert Design(spread, seeds, 256).power(0.5) >= 0.8 > Design(spread, seeds - 1, 256).power(0.5)


def test_spread_by_hand() -> None:
    # Seed means 1.5, 4.5; prompt means 2, 4; residuals of half a point: MS_e = 1.
    found = Spread.of(np.array([[1.0, 2.0], [3.0, 6.0]]))
    assert found.variances == pytest.approx((4.5 - 1 / 2, 2 - 1 / 2, 1.0))
    assert Spread.of(np.array([[1.0, -1.0], [-1.0, 1.0]])) == Spread(0.0, 0.0, 2.0)
    with pytest.raises(ValueError, match="1 seeds and 3 prompts"):
        Spread.of(np.ones((1, 3)))

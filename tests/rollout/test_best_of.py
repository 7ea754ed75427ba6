"""The best of K against subsets written out, and against the closed form for normal scores."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from prefopt.rollout.best_of import best_of_curve, expected_best, interval


def test_numbers_worked_by_hand() -> None:
    """Of 1, 2, 4: pairs (1,2), (1,4), (2,4) have the best 2, 4, 4."""
    scores = np.array([[4.0, 1.0, 2.0]])
    assert expected_best(scores, 1)[0] == pytest.approx(7 / 3, rel=1e-12)
    assert expected_best(scores, 2)[0] == pytest.approx(10 / 3, rel=1e-12)
    assert expected_best(scores, 3)[0] == 4.0


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=7), st.data())
def test_it_is_the_mean_over_all_subsets(scores: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores)))
    every = [max(subset) for subset in combinations(scores, k)]
    assert expected_best(np.array([scores]), k)[0] == pytest.approx(np.mean(every), rel=1e-9, abs=1e-9)


def of_normal(k: int) -> float:
    """E max of k standard normal numbers: the integral of x k phi(x) Phi(x)^(k-1)."""
    density = stats.norm
    return integrate.quad(lambda x: x * k * density.pdf(x) * density.cdf(x) ** (k - 1), -10, 10)[0]


def test_the_curve_of_normal_scores_is_the_closed_form() -> None:
    assert of_normal(2) == pytest.approx(1 / np.sqrt(np.pi), rel=1e-9)
    curve = best_of_curve(np.random.default_rng(0).normal(size=(400, 32)), [1, 2, 4, 8, 16, 32])
    inside = [estimate.low <= of_normal(k) <= estimate.high for k, estimate in curve.items()]
    assert all(inside) and curve[32].mean > curve[8].mean + 0.5 and curve[16].high - curve[16].low < 0.2


def test_intervals_hold_the_truth_at_their_level() -> None:
    rng = np.random.default_rng(1)
    held = [
        estimate.low <= of_normal(4) <= estimate.high
        for estimate in (best_of_curve(rng.normal(size=(30, 8)), [4])[4] for _ in range(1000))
    ]
    assert 0.93 <= np.mean(held) <= 0.97


def test_large_numbers_of_responses_do_not_overflow() -> None:
    scores = np.arange(2000.0)[None]
    assert expected_best(scores, 1000)[0] == pytest.approx(1000 * 2001 / 1001 - 1, rel=1e-12)


def test_what_says_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) say nothing of the best of 4"):
        expected_best(np.zeros((2, 3)), 4)
    with pytest.raises(ValueError, match="prompt 1 has a score that is not finite"):
        expected_best(np.array([[0.0, 1.0], [np.nan, 2.0]]), 2)
    assert interval(np.array([3.0])).low == -np.inf

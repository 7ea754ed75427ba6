"""Order statistics of K against subsets written out, and against closed forms for normal and exponential scores."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from prefopt.candidates.order_statistics import (
    Estimate,
    best_of_curve,
    doublings,
    expected_best,
    expected_median,
    expected_order_statistic,
    interval,
    reward_curves,
)


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


@cache
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


# Other order statistics


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=7), st.data())
def test_every_order_statistic_is_the_mean_over_all_subsets(scores: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores)))
    every = [sorted(subset) for subset in combinations(scores, k)]
    for j in range(1, k + 1):
        expected = np.mean([subset[j - 1] for subset in every])
        assert expected_order_statistic([scores], k, j)[0] == pytest.approx(expected, rel=1e-9, abs=1e-9)
    expected = np.mean([np.median(subset) for subset in every])
    assert expected_median([scores], k)[0] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_medians_worked_by_hand() -> None:
    """Of 1, 2, 4, 8: the triples have the medians 2 (124), 2 (128), 4 (148), 4 (248); pairs have their means."""
    scores = [[8.0, 1.0, 4.0, 2.0]]
    assert expected_median(scores, 3)[0] == 3.0
    assert [expected_median(scores, k)[0] for k in (1, 2)] == pytest.approx([15 / 4] * 2, rel=1e-12)
    assert expected_median(scores, 4)[0] == 3.0


KS = [1, 2, 4, 8, 16, 32]
SEEDS = range(5)
FAMILY = 0.01
"""How often a test of that many intervals at once fails by chance, whatever the seeds; theirs are fixed."""
EACH = 1 - FAMILY / (len(KS) * len(SEEDS))


def holds(estimate: Estimate, value: float) -> bool:
    return estimate.low <= value <= estimate.high


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (-3.0, 0.5)])
def test_measured_curves_of_normal_scores_are_the_closed_form(mean: float, spread: float) -> None:
    assert [round(of_normal(k), 4) for k in (2, 3, 4, 5)] == [0.5642, 0.8463, 1.0294, 1.1630]
    for seed in SEEDS:
        scores = np.random.default_rng(seed).normal(mean, spread, size=(300, 40))
        for k, curve in reward_curves(scores, KS, EACH).items():
            assert holds(curve["max"], mean + spread * of_normal(k))
            assert holds(curve["median"], mean) and holds(curve["mean"], mean)
            assert curve["max"].high - curve["max"].low < 0.4 * spread


def test_measured_medians_of_lopsided_scores_are_the_closed_form() -> None:
    """The j-th lowest of k exponential numbers is 1/k + 1/(k - 1) + ... with j summands (Renyi 1953)."""

    def of_exponential(k: int) -> float:
        statistic = [sum(1 / (k - i) for i in range(j)) for j in range(k + 1)]
        return (statistic[(k + 1) // 2] + statistic[k // 2 + 1]) / 2

    for seed in SEEDS:
        scores = np.random.default_rng(seed).exponential(size=(300, 40))
        curves = reward_curves(scores, KS, EACH)
        assert all(holds(curve["median"], of_exponential(k)) for k, curve in curves.items())
        assert not holds(curves[32]["median"], of_exponential(1))
        assert len({curve["mean"] for curve in curves.values()}) == 1


def test_more_responses_than_k_narrow_no_truth_away() -> None:
    """The best of 4 by 4 responses and by 40 is the same number, known better."""
    scores = np.random.default_rng(5).normal(size=(2000, 40))
    few, many = expected_best(scores[:, :4], 4), expected_best(scores, 4)
    assert abs(np.mean(few - many)) < 4 * np.std(few - many) / np.sqrt(2000)
    assert np.var(many) < np.var(few) / 5


def test_numbers_for_a_curve() -> None:
    assert [doublings(k) for k in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_a_prompt_with_fewer_scores_is_named() -> None:
    with pytest.raises(ValueError, match="prompt 1 has 2 scores, prompt 0 has 3"):
        reward_curves([[1.0, 2.0, 3.0], [1.0, 2.0], [1.0, 2.0, 3.0]], [1])
    with pytest.raises(ValueError, match="j=3: 2 responses have"):
        expected_order_statistic([[1.0, 2.0]], 2, 3)

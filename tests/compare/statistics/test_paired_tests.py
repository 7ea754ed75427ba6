"""Paired tests of two checkpoints: Darwin's plants, numbers worked by hand, and what cannot be tested."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prefopt.compare import holm, mcnemar, paired, sign_test
from prefopt.compare.statistics.paired_tests import (
    bca,
    hedges_correction,
    holm_named,
    per_prompt,
    rank_biserial,
    sign_flip,
)

DARWIN = np.array([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75], dtype=float)
"""Cross-fertilised less self-fertilised plants, in eighths of an inch (Fisher 1935, The design of experiments, 17)."""


def test_darwins_plants() -> None:
    found = paired(DARWIN, np.zeros(15), resamples=2**15)
    assert found.prompts == 15 and found.ties == 0
    assert found.mean == pytest.approx(314 / 15)
    assert found.mean / found.error == pytest.approx(2.148, abs=5e-4)  # Fisher's t
    assert found.p_flip == pytest.approx(2 * 863 / 2**15)  # Fisher's section 21: 863 of 32,768 sums are as large
    assert found.p_wilcoxon == 0.041259765625  # scipy.stats.wilcoxon's documentation
    assert found.rank_biserial == pytest.approx((96 - 24) / 120)  # ... which has the statistic 24
    assert found.d_z == pytest.approx(2.148 / math.sqrt(15), abs=2e-4)
    assert found.hedges_g == pytest.approx(found.d_z * (1 - 3 / 55), rel=1e-3)
    assert found.interval.low < found.mean < found.interval.high


def test_small_cases_by_hand() -> None:
    assert sign_flip(np.array([1.0, 2.0, 3.0])) == 0.25  # +++ and --- of eight
    assert sign_flip(np.array([1.0, 2.0, -3.0])) == 1.0
    assert rank_biserial(np.array([1.0, 2.0, -3.0, 4.0, 0.0])) == pytest.approx((7 - 3) / 10)
    assert rank_biserial(np.zeros(3)) == 0.0
    assert hedges_correction(2) == pytest.approx(1 / math.sqrt(math.pi))
    assert hedges_correction(10) == pytest.approx(0.9227, abs=1e-4) and hedges_correction(1) == 0.0


def test_the_interval_is_scipys_over_prompts() -> None:
    values = np.random.default_rng(3).exponential(size=40)
    same = stats.bootstrap((values,), np.mean, method="BCa", rng=np.random.default_rng(0)).confidence_interval
    assert bca(values) == pytest.approx((same.low, same.high))
    wider = bca(values, level=0.99)
    assert wider.low < same.low and wider.high > same.high


def test_a_prompt_counts_once_however_many_responses_it_has() -> None:
    prompts = ["b", "a", "b", "c", "b"]
    assert per_prompt([1.0, 5.0, 2.0, 7.0, 6.0], prompts).tolist() == [5.0, 3.0, 7.0]
    many = paired([1.0, 5.0, 2.0, 7.0, 6.0], np.zeros(5), prompts)
    assert many == paired([5.0, 3.0, 7.0], np.zeros(3)) and many.prompts == 3


def test_copies_of_a_row_add_no_certainty() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 30))
    copied = paired(np.repeat(a, 4), np.repeat(b, 4), np.repeat(np.arange(30), 4), resamples=500)
    once = paired(a, b, resamples=500)
    assert copied.error == pytest.approx(once.error) and copied.interval == pytest.approx(once.interval)
    assert paired(np.repeat(a, 4), np.repeat(b, 4), resamples=500).error < 0.6 * once.error


def test_equal_checkpoints_are_no_evidence() -> None:
    found = paired([1.0, 2.0, 4.0], [1.0, 2.0, 4.0])
    assert (found.p_flip, found.p_wilcoxon, found.interval, found.ties, found.d_z) == (1.0, 1.0, (0.0, 0.0), 3, 0.0)


def test_rounding_is_a_tie() -> None:
    found = paired([0.1 + 0.2, 0.1 + 0.2, 1.0], [0.3, 0.3, 0.0])
    assert found.ties == 2 and found.rank_biserial == 1.0
    assert paired([0.1 + 0.2, 0.1 + 0.2, 1.0], [0.3, 0.3, 1.0]).p_flip == 1.0


@pytest.mark.parametrize(
    ("first", "second", "prompts", "says"),
    [
        ([1.0, 2.0], [1.0], None, "2 of the first, 1 of the second"),
        ([1.0], [2.0], None, "1 prompt: how much prompts differ"),
        ([], [], None, "0 prompt"),
        ([1.0, math.nan], [1.0, 2.0], None, "of the first: nan at 1 is no finite number"),
        ([1.0, 2.0], [math.inf, 2.0], None, "of the second: inf at 0"),
        ([1.0, 2.0, 3.0], [0.5, 1.5, 2.5], None, "by 0.5 at all of 3 prompts"),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], ["a", "a", "a"], "1 prompt"),
        ([1.0, 2.0], [0.0, 0.0], ["a"], "say of each value which prompt's"),
        ([[1.0, 2.0]], [[1.0, 2.0]], None, r"shape \(1, 2\)"),
    ],
)
def test_what_cannot_be_compared(first: Any, second: Any, prompts: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        paired(first, second, prompts)


values = st.lists(st.integers(-40, 40).map(lambda n: n / 10), min_size=3, max_size=8)


@settings(max_examples=15)
@given(values, st.integers(1, 7))
def test_swapping_turns_signs_and_scaling_scales(differences: list[float], scale: int) -> None:
    a, b = np.array(differences), np.zeros(len(differences))
    if np.ptp(a) == 0:
        return
    one, other, large = (paired(*each, resamples=300) for each in ((a, b), (b, a), (a * scale, b)))
    assert other.mean == -one.mean and other.rank_biserial == -one.rank_biserial and other.d_z == -one.d_z
    assert (other.p_flip, other.p_wilcoxon) == pytest.approx((one.p_flip, one.p_wilcoxon))
    assert large.mean == pytest.approx(scale * one.mean) and large.error == pytest.approx(scale * one.error)
    assert large.p_flip == pytest.approx(one.p_flip) and large.d_z == pytest.approx(one.d_z)
    assert 0 < one.p_flip <= 1 and one.interval.low <= one.mean <= one.interval.high


def test_mcnemar_by_hand() -> None:
    first = [1, 1, 1, 1, 1, 0, 1, 1, 0, 0]
    second = [0, 0, 0, 0, 0, 1, 1, 1, 0, 0]
    found = mcnemar(first, second)
    assert (found.first, found.second, found.only_first, found.only_second) == (0.7, 0.3, 5, 1)
    assert found.p == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar(second, first).p == found.p


def test_rows_that_all_agree_say_nothing() -> None:
    assert mcnemar([True, False, True], [True, False, True]).p == 1.0
    assert sign_test(0, 0) == 1.0 and sign_test(3, 3) == 1.0
    assert sign_test(6, 0) == pytest.approx(2 / 64)


def test_what_is_no_accuracy() -> None:
    with pytest.raises(ValueError, match="right .1. or wrong"):
        mcnemar([1.0, 0.5], [1.0, 0.0])
    with pytest.raises(ValueError, match="no rows"):
        mcnemar([], [])
    with pytest.raises(ValueError, match="2 of the first, 3 of the second"):
        mcnemar([1, 0], [1, 0, 1])
    with pytest.raises(ValueError, match="counts are 0 or more"):
        sign_test(-1, 2)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # R: p.adjust
    assert holm([0.6, 0.5]) == [1.0, 1.0] and holm([]) == []
    assert holm_named({"a": 0.02, "b": 0.03}) == pytest.approx({"a": 0.04, "b": 0.04})
    for wrong in ([0.5, 1.2], [math.nan], [-0.1]):
        with pytest.raises(ValueError, match="from 0 to 1"):
            holm(wrong)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_order_and_is_between_none_and_bonferroni(p: list[float]) -> None:
    corrected = np.array(holm(p))
    plain = np.array(p)
    assert (corrected >= plain).all() and (corrected <= np.minimum(1, len(p) * plain) + 1e-15).all()
    assert (np.diff(corrected[np.argsort(plain, kind="stable")]) >= 0).all()

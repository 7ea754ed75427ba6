"""Agreement beyond chance, against published values and another implementation's."""

from __future__ import annotations

import numpy as np
import pytest

from prefopt.labelling.agreement import agreement, gwet, ordinal_weights

NAN = float("nan")
KRIPPENDORFF = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]
"""Four observers, twelve units: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C."""
GWET = [KRIPPENDORFF[0], [*KRIPPENDORFF[1][:11], NAN], [*KRIPPENDORFF[2][:11], 3], KRIPPENDORFF[3]]
"""The same with the lone rating by another rater: irrCAC's raw_4raters, after Gwet's Handbook."""
GRADED = [
    (2, 3, 4), (3, -1, 2), (1, -2, NAN), (-4, -4, -3), (-3, NAN, 0), (NAN, -3, -4), (-4, NAN, -4), (NAN, NAN, -3),
    (-2, -4, NAN), (4, 4, NAN), (3, 2, 0), (2, 3, 3), (-2, 0, 0), (3, 3, 1), (2, 4, 4), (2, 4, 4), (NAN, 0, -1),
    (-1, NAN, 2), (1, 3, NAN), (4, 4, 3),
]  # fmt: skip
"""Drawn at random, as signed grades."""


@pytest.mark.parametrize(
    ("weights", "value", "low"),
    [(np.eye(5), 0.77544, 0.46081), (ordinal_weights(5), 0.89894, 0.66365)],
    ids=["AC1", "AC2"],
)
def test_gwet_as_published(weights: np.ndarray, value: float, low: float) -> None:
    """All four numbers are irrCAC 0.4.4's, the first of them the one in its documentation."""
    found = gwet(np.array(GWET).T, (1, 2, 3, 4, 5), weights)
    assert found == (pytest.approx(value, abs=1e-5), pytest.approx(low, abs=1e-5), 1.0)


def test_gwet_of_signed_grades() -> None:
    """irrCAC 0.4.4 with weights="ordinal" and all nine categories."""
    found = gwet(np.array(GRADED), tuple(range(-4, 5)), ordinal_weights(9))
    assert found == pytest.approx((0.71195, 0.5559, 0.86799), abs=1e-5)


def test_alpha_as_published() -> None:
    pytest.importorskip("krippendorff")
    ratings = np.array(KRIPPENDORFF).T
    for ordered, alpha in ((False, 0.743), (True, 0.815)):
        found = agreement(ratings, (1, 2, 3, 4, 5), ordered=ordered)
        assert found is not None and found.units == 11
        assert found.alpha == pytest.approx(alpha, abs=5e-4)


def test_one_annotator_agrees_with_nobody() -> None:
    assert agreement(np.array([[1.0], [0.0], [1.0]]), (-1, 0, 1), ordered=False) is None
    assert agreement(np.empty((0, 0)), (-1, 0, 1), ordered=False) is None


def test_where_all_say_the_same_alpha_is_not_defined() -> None:
    found = agreement(np.ones((5, 2)), (-1, 0, 1), ordered=False)
    assert found is not None and (found.ac, found.low, found.high, found.alpha) == (1.0, 1.0, 1.0, None)


def test_without_the_library_alpha_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefopt.labelling.agreement.find_spec", lambda name: None)
    found = agreement(np.array(GWET).T, (1, 2, 3, 4, 5), ordered=True)
    assert found is not None and found.alpha is None and found.ac == pytest.approx(0.89894, abs=1e-5)

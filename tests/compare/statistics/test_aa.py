"""The simulation of benchmarks/compare_aa.py, small: which tests call equally good methods different."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.compare_aa import DECIDES, all_tests, by_claim, main, rates, simulated, with_error
from prefopt.compare import Claim, Design, Spread, compare_methods

SPREAD = Spread(0.25, 1.1, 2.1)


def shares(spread: Spread, effect: float, *, seeds: int = 5, trials: int = 600) -> dict[str, np.ndarray]:
    return rates(simulated(spread, seeds, 128, trials, effect, 7), all_tests(200), effect, 0.95)


def test_equally_good_methods() -> None:
    found = {name: share[0] for name, share in shares(SPREAD, 0.0).items()}
    assert found["prompts, one seed"] > 0.15 and found["prompts, seeds pooled"] > 0.15
    assert found["hierarchical bootstrap"] > found[DECIDES]
    assert found[DECIDES] < 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5


def test_the_planted_difference_is_seen_as_often_as_computed() -> None:
    found = shares(SPREAD, 0.6)[DECIDES]
    assert found[0] == pytest.approx(Design(SPREAD, 5, 128).power(0.6), abs=0.06) and found[1] > 0.92


def test_five_seeds_may_miss_a_collapse_in_one_of_five() -> None:
    lots = simulated(Spread(1.0, 0.0, 1.0), 5, 64, 600, 0.0, 0, "collapse")
    found = rates(lots, {DECIDES: by_claim(Claim.METHODS)}, 0.0, 0.95)[DECIDES][0]
    assert found == pytest.approx(0.8**5, abs=0.06)


def test_the_simulated_test_is_the_librarys() -> None:
    (lot,) = simulated(SPREAD, 5, 32, 4, 0.3, 0)
    low, high = by_claim(Claim.METHODS)(lot, 0.95)
    for number, table in enumerate(lot):
        assert compare_methods(table, np.zeros_like(table)).interval == pytest.approx((low[number], high[number]))


def test_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--trials", "8", "--prompts", "16", "--resamples", "20"])
    printed = capsys.readouterr().out
    assert "equally good" in printed and "computed power at 0.5" in printed and "2 reports on 5" in printed
    assert with_error(0.05, 1000) == "5.0% ± 0.7%"
    with pytest.raises(SystemExit, match="two or more seeds"):
        main(["--seeds", "1"])

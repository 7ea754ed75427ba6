"""The benchmark of the doctor: its list of runs, and its table."""

from __future__ import annotations

from benchmarks import sick_runs
from benchmarks.sick_cases import FIXED, REAL, REFUSED, UNSEEN
from prefopt.doctor.checks import CHECKS

OF_OTHER_FOLDERS = {"nothing_moved", "policy_never_learns", "steps_skipped", "training_stopped", "weights_broken"}
"""Sicknesses that no case is sure to have: they come with others, or trainers refuse what leads to them."""


def test_each_case_is_named_once_and_expects_checks_that_there_are() -> None:
    for cases in (FIXED, UNSEEN):
        assert len({case.name for case in cases}) == len(cases)
        assert set().union(*(case.expected for case in cases)) <= {*CHECKS, REFUSED}
    assert set(REAL) <= {case.name for case in FIXED}


def test_unseen_cases_expect_all_that_fixed_ones_do_under_other_settings() -> None:
    fixed, unseen = (set().union(*(case.expected for case in cases)) for cases in (FIXED, UNSEEN))
    assert fixed == unseen and set(CHECKS) - fixed <= OF_OTHER_FOLDERS
    seen = [(case.make, case.settings) for case in FIXED]
    assert not [case.name for case in UNSEEN if (case.make, case.settings) in seen]


def test_a_run_is_right_by_one_of_what_is_expected_or_by_silence() -> None:
    assert sick_runs.is_right(["loss_flat", "rate_zero"], ["updates_lost", "loss_flat"])
    assert not sick_runs.is_right(["loss_flat"], []) and not sick_runs.is_right(["loss_flat"], ["rate_zero"])
    assert sick_runs.is_right([], []) and not sick_runs.is_right([], ["loss_flat"])


def test_the_table_counts_seeds() -> None:
    records = [
        {"case": "a", "expected": ["x"], "right": True, "said": ["refused", "why it is", "x"]},
        {"case": "a", "expected": ["x"], "right": False, "said": ["y"]},
        {"case": "b", "expected": [], "right": True, "said": []},
    ]
    assert sick_runs.table(records)[2:] == ["| a | 1 of 2 told | refused, x, y |", "| b | 1 of 1 silent | nothing |"]

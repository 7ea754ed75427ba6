"""Methods over seeds: scipy's tests where they are the same, crossed variances by hand, verdicts, frontiers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prefopt.compare import Claim, Verdict, compare_methods, resampled_means, who_beats_whom
from prefopt.compare.statistics import frontier
from prefopt.compare.statistics.claims import Part, margin, p_value, parts
from prefopt.compare.statistics.resampling import percentiles


def gains(*means: float, seeds: int = 5, prompts: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    """Methods a, b, ... that share what their seeds and prompts are worth."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(seeds, 1)) + 2 * rng.normal(size=(1, prompts))
    drawn = [mean + common + 0.3 * rng.normal(size=(seeds, prompts)) for mean in means]
    return {chr(ord("a") + n): table for n, table in enumerate(drawn)}


def test_on_these_prompts_it_is_the_paired_t_test_of_seed_means() -> None:
    a, b = gains(0.1, 0.0).values()
    found, known = compare_methods(a, b, claim=Claim.SEEDS), stats.ttest_rel(a.mean(1), b.mean(1))
    assert found.p == pytest.approx(known.pvalue, rel=1e-9)
    assert found.interval == pytest.approx(tuple(known.confidence_interval(0.95)))
    assert found.by_seed == pytest.approx(a.mean(1) - b.mean(1))


def test_seeds_of_their_own_are_compared_by_welch() -> None:
    a, b = gains(0.5, 0.0)["a"], 3 * gains(0.1, seeds=7, seed=1)["a"]
    found = compare_methods(a, b, claim=Claim.SEEDS, paired_seeds=False)
    known = stats.ttest_ind(a.mean(1), b.mean(1), equal_var=False)
    assert found.p == pytest.approx(known.pvalue, rel=1e-9)
    assert found.interval == pytest.approx(tuple(known.confidence_interval(0.95)))
    assert found.by_seed == () and found.bootstrap is not None


def test_of_checkpoints_it_is_the_paired_t_test_of_prompts() -> None:
    a, b = gains(0.1, 0.0, seeds=3).values()
    found, known = compare_methods(a, b), stats.ttest_rel(a.mean(0), b.mean(0))
    assert found.claim is Claim.CHECKPOINTS and found.bootstrap is None
    assert found.p == pytest.approx(known.pvalue, rel=1e-9)


def test_prompts_of_their_own_make_seed_means_speak_for_new_prompts() -> None:
    a, b = gains(0.1, 0.0).values()
    found = compare_methods(a, b, shared_prompts=False)
    assert found.p == pytest.approx(stats.ttest_rel(a.mean(1), b.mean(1)).pvalue)
    (cells,) = parts([(a - b)[:3]], Claim.CHECKPOINTS, shared_prompts=False)
    assert cells.variance == pytest.approx((a - b)[:3].var(1, ddof=1).sum() / 9 / 40)
    with pytest.raises(ValueError, match="no prompts that stay the same"):
        compare_methods(a, b, shared_prompts=False, claim=Claim.SEEDS)


def test_crossed_variances_by_hand() -> None:
    # Seed means 1.5, 4.5 and prompt means 2, 4; the mean square of what is left is 1.
    table = np.array([[1.0, 2.0], [3.0, 6.0]])
    of_seeds, of_prompts = parts([table], Claim.METHODS)
    assert of_seeds == Part(4.5 / 2, 1.0) and of_prompts == Part(2 / 2 - 1 / 4, 1)
    (only,) = parts([table], Claim.CHECKPOINTS)
    assert only == Part(1.0, 1)
    assert margin([of_seeds, of_prompts], 0.95) == pytest.approx(12.7062 * math.sqrt(3), rel=1e-5)


def test_the_margin_adds_in_squares_and_the_p_value_inverts_it() -> None:
    both = [Part(0.04, 4), Part(0.01, 255)]
    assert margin(both, 0.95) == pytest.approx(math.hypot(2.776445 * 0.2, 1.969311 * 0.1), rel=1e-5)
    for mean in (0.01, 0.3, 1.0, 5.0):
        assert margin(both, 1 - p_value(mean, both)) == pytest.approx(mean, rel=1e-6)
    assert p_value(-0.5, both) == p_value(0.5, both) and p_value(0.0, both) == pytest.approx(1.0)
    assert p_value(0.0, [Part(0.0, 4)]) == 1.0


@settings(max_examples=40)
@given(st.floats(0.01, 5), st.floats(0.001, 4), st.floats(0.001, 4), st.integers(1, 8))
def test_doubt_about_prompts_only_adds(mean: float, seeds: float, prompts: float, df: int) -> None:
    both = [Part(seeds, df), Part(prompts, 255)]
    assert p_value(mean, both) >= p_value(mean, both[:1]) - 1e-12 and p_value(mean, both) >= p_value(mean, both[1:])
    assert (p_value(mean, both) < 0.05) == (margin(both, 0.95) < mean)


def test_new_prompts_are_a_bolder_claim_than_the_same_ones() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(1, 30)) * 2 + 0.2 * rng.normal(size=(6, 30)) + 0.5
    same, new = (compare_methods(table, np.zeros((6, 30)), claim=claim) for claim in (Claim.SEEDS, Claim.METHODS))
    assert new.p > 10 * same.p and new.interval.high - new.interval.low > 3 * (same.interval.high - same.interval.low)


def test_who_beats_whom() -> None:
    found = who_beats_whom(gains(1.0, 0.0, 0.02))
    assert found.verdict("a", "b") is Verdict.BEATS and found.verdict("b", "a") is Verdict.LOSES
    assert found.verdict("b", "c") is Verdict.UNDECIDED is found.verdict("c", "b")
    assert found.beats("a") == ("b", "c") and found.beats("c") == ()
    assert found.rows()[0] == ["a", "-", "beats", "beats"] and found.rows()[1] == ["b", "loses to", "-", "undecided"]
    single = {pair: each.p for pair, each in found.differences.items()}
    assert found.p["b", "c"] == single["b", "c"] and min(found.p.values()) == pytest.approx(3 * min(single.values()))
    with pytest.raises(KeyError, match="two different ones of a, b, c"):
        found.verdict("a", "a")


def test_a_correction_may_take_a_verdict_back() -> None:
    tables = gains(0.0, 0.0)
    apart = (tables["a"] - tables["b"]).mean(1)
    tables["a"] += stats.t.isf(0.015, 4) * stats.sem(apart) - apart.mean()  # a beats b with p = .03
    tables["c"] = tables["b"] + 10 * np.random.default_rng(5).normal(size=(5, 1))
    found = who_beats_whom(tables, claim=Claim.SEEDS)
    assert found.differences["a", "b"].p == pytest.approx(0.03) and found.p["a", "b"] == pytest.approx(0.09)
    assert found.differences["a", "b"].verdict() is Verdict.BEATS and found.verdict("a", "b") is Verdict.UNDECIDED


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_few_seeds_rank_no_methods(seeds: int) -> None:
    found = who_beats_whom(gains(5.0, 0.0, 0.0, seeds=seeds), claim=Claim.METHODS)
    assert found.verdict("a", "b") is Verdict.DIFFER is found.verdict("b", "a")
    assert found.verdict("b", "c") is Verdict.ALIKE and found.beats("a") == ()
    assert {each.claim for each in found.differences.values()} == {Claim.CHECKPOINTS}


def test_what_all_methods_share_changes_nothing() -> None:
    plain = gains(0.2, 0.0)
    over = {name: each - np.arange(5.0)[:, None] - np.arange(40.0) for name, each in plain.items()}
    one, other = (compare_methods(*each.values()) for each in (plain, over))
    assert other.p == pytest.approx(one.p, rel=1e-6) and other.bootstrap == pytest.approx(one.bootstrap)


@settings(max_examples=15)
@given(st.integers(0, 1000), st.permutations(["a", "b", "c"]))
def test_the_order_of_methods_seeds_and_prompts_does_not_matter(seed: int, order: list[str]) -> None:
    given_ = gains(0.2, 0.0, 0.1, seed=seed)
    rng = np.random.default_rng(seed)
    seeds, prompts = rng.permutation(5), rng.permutation(40)
    mixed = {name: given_[name][seeds][:, prompts] for name in order}
    one, other = who_beats_whom(given_, resamples=2), who_beats_whom(mixed, resamples=2)
    for first, second in (("a", "b"), ("b", "c"), ("c", "a")):
        assert one.verdict(first, second) is other.verdict(first, second)
        assert one.verdict(first, second) is one.verdict(second, first).reversed


def test_the_same_result_under_two_names_is_no_evidence() -> None:
    a = gains(1.0)["a"]
    found = compare_methods(a + 0.1 - 0.1, a)
    assert (found.p, found.interval, found.verdict()) == (1.0, (0.0, 0.0), Verdict.UNDECIDED)


@pytest.mark.parametrize(
    ("given_", "options", "says"),
    [
        ({"a": np.zeros((5, 4))}, {}, "needs two or more"),
        ({"a": np.zeros((5, 4)), "b": np.zeros((4, 4))}, {}, "paired_seeds=False"),
        ({"a": np.zeros((5, 4)), "b": np.zeros((5, 3))}, {"paired_seeds": False}, "only the seeds may differ"),
        ({"a": np.zeros((5, 1)), "b": np.ones((5, 1))}, {}, "1 prompt"),
        ({"a": np.zeros(5), "b": np.zeros(5)}, {}, r"gains of 'a': given an array of shape \(5,\)"),
        ({"a": np.full((5, 4), np.nan), "b": np.zeros((5, 4))}, {}, "gains of 'a': nan at 0, 0"),
        ({"a": np.ones((5, 4)), "b": np.zeros((5, 4))}, {}, "'a' and 'b': all 5 seeds gave the same mean"),
        ({"a": np.tile(np.arange(4.0), (5, 1)), "b": np.zeros((5, 4))}, {}, "different seeds"),
        ({"a": np.ones((2, 4)), "b": np.zeros((2, 4))}, {}, "differ by the same at every prompt"),
    ],
)
def test_what_cannot_be_compared(given_: dict[str, Any], options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        who_beats_whom(given_, **options)


def test_bootstraps_have_the_variance_that_their_papers_say() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(4, 50)) + np.arange(4.0)[:, None] / 4 + 2 * rng.normal(size=50)
    seeds, prompts, own = table.mean(1), table.mean(0), table.var(1)
    nested, crossed = (resampled_means(table, crossed=each, resamples=20_000) for each in (False, True))
    # Drawn within drawn seeds: var(seed means) / S + mean variance within seeds / (S P), all divided by their count.
    assert nested.var() == pytest.approx(seeds.var() / 4 + own.mean() / 200, rel=0.04)
    # Owen 2007, theorem 3: rows and columns each, and both once more.
    left = (table - seeds[:, None] - prompts + table.mean()).var()
    assert crossed.var() == pytest.approx(seeds.var() / 4 + prompts.var() / 50 + left / 200, rel=0.04)
    assert crossed.var() > 1.5 * nested.var()
    assert nested.mean() == pytest.approx(table.mean(), abs=0.02) and nested.shape == (20_000,)
    assert percentiles(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))


def test_a_seed_gives_the_same_bootstrap_for_one_table_and_for_many() -> None:
    tables = np.random.default_rng(1).normal(size=(3, 5, 7))
    many = resampled_means(tables, resamples=50, seed=4)
    assert many.shape == (3, 50) and many[1] == pytest.approx(resampled_means(tables[1], resamples=50, seed=4))


def tables_at(means: dict[str, float], noise: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: mean + noise * rng.normal(size=(5, 30)) for name, mean in means.items()}


def test_frontier_by_hand() -> None:
    rewards = {"wild": -2.0, "ppo": 0.9, "dpo": 1.0, "sft": 0.0}
    kls = {"wild": 30.0, "ppo": 1.8, "dpo": 1.5, "sft": 0.0}
    sft, dpo, ppo, wild = frontier(tables_at(rewards, 0.001), tables_at(kls, 0.001), resamples=2)
    assert [point.name for point in (sft, dpo, ppo, wild)] == ["sft", "dpo", "ppo", "wild"]
    assert sft.on_frontier and dpo.on_frontier and (dpo.reward, dpo.kl) == pytest.approx((1.0, 1.5), abs=0.01)
    assert ppo.dominated_by == ppo.clearly_by == ("dpo",)
    assert set(wild.dominated_by) == set(wild.clearly_by) == {"sft", "dpo", "ppo"}


def test_what_is_within_the_errors_is_dominated_but_not_clearly() -> None:
    rewards, kls = tables_at({"a": 1.0, "b": 0.9}, 2.0), tables_at({"b": 1.8, "a": 1.5}, 2.0)
    rewards["b"] += rewards["a"].mean() - rewards["b"].mean() - 0.1
    kls["b"] += kls["a"].mean() - kls["b"].mean() + 0.3
    better, worse = frontier(rewards, kls, resamples=2)
    assert better.name == "a" and worse.dominated_by == ("a",) and worse.clearly_by == ()


def test_equal_points_do_not_dominate_each_other() -> None:
    reward, kl = gains(0.0)["a"], gains(1.0)["a"]
    same = frontier({"a": reward, "b": reward}, {"a": kl, "b": kl}, resamples=2)
    assert [point.on_frontier for point in same] == [True, True]
    cheaper = frontier({"a": reward, "b": reward}, {"a": kl, "b": kl + gains(1.0, seed=3)["a"] ** 2}, resamples=2)
    assert cheaper[1].name == "b" and cheaper[1].clearly_by == ("a",)
    with pytest.raises(ValueError, match="give both of every method"):
        frontier({"a": reward, "b": reward}, {"a": kl})

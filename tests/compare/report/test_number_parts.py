"""Best-of-K, grades, choices, judges, distributions, samples and intervals, each by hand or by brute force."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from prefopt.candidates.order_statistics import expected_best
from prefopt.compare import holm, length_controlled, mcnemar, sign_test
from prefopt.compare.records import CHOICES, Cell, Experiment, table
from prefopt.compare.report.findings import Value
from prefopt.compare.report.numbers import findings_of
from prefopt.compare.report.numbers.best_of import gaussian_best, gold_of_best, normal_best
from prefopt.compare.report.numbers.means import Means
from prefopt.compare.report.numbers.responses import edges_of
from prefopt.compare.statistics.claims import Claim, parts
from tests.helpers.comparison_results import changed, column, experiment, judgements, pair_table

HERE = Means(Claim.CHECKPOINTS, 0.95)
EVERYWHERE = Means(Claim.METHODS, 0.95)


def test_the_gold_of_the_best_is_the_mean_over_all_subsets() -> None:
    scores, gold = (
        np.array([[3.0, 1.0, 3.0, 2.0], [0.0, 0.0, 0.0, 1.0]]),
        np.array([[1.0, 5.0, 2.0, 9.0], [1, 2, 6, 0]]),
    )

    def picked(row: int, subset: tuple[int, ...]) -> float:
        best = max(scores[row, each] for each in subset)
        return float(np.mean([gold[row, each] for each in subset if scores[row, each] == best]))

    for k in (1, 2, 3, 4):
        known = [np.mean([picked(row, subset) for subset in combinations(range(4), k)]) for row in (0, 1)]
        assert gold_of_best(scores, gold, k) == pytest.approx(known)
        assert gold_of_best(scores, scores, k) == pytest.approx(expected_best(scores, k))


def test_the_gaussian_prediction_is_right_of_gaussian_scores_however_few() -> None:
    assert normal_best(1) == pytest.approx(0, abs=1e-9)
    assert [normal_best(k) for k in (2, 3)] == pytest.approx([1 / math.sqrt(math.pi), 1.5 / math.sqrt(math.pi)])
    drawn = np.random.default_rng(0).normal(2.0, 3.0, size=(40000, 3))
    assert gaussian_best(drawn, 3) == pytest.approx(2.0 + 3.0 * normal_best(3), abs=0.05)
    assert gaussian_best(drawn[:, :2], 2) == pytest.approx(expected_best(drawn[:, :2], 2).mean())
    assert math.isfinite(gaussian_best(np.random.default_rng(0).normal(size=(2, 1000)), 1000))


def test_best_of_curves_are_of_what_was_drawn_several_times_and_not_selected() -> None:
    given = experiment({"sft": 0.0, "dpo": 1.0, "best": 1.0}, prompts=10, k=4)
    sft, dpo = findings_of(changed(given, "best", method="best-of-n")).best_of
    assert (sft.method, dpo.method, sft.ks) == ("sft", "dpo", [1, 2, 4])
    assert sft.best[0].mean == pytest.approx(sft.predicted[0]) == pytest.approx(sft.median[0].mean)
    assert (
        sft.best[0].mean < sft.best[1].mean < sft.best[2].mean and sft.gold is not None and sft.best[2].low is not None
    )
    assert sft.predicted[2] == pytest.approx(sft.best[2].mean, abs=0.2)
    assert findings_of(experiment({"sft": 0.0, "dpo": 1.0}, prompts=10, k=1)).best_of == []
    assert findings_of(column(given, "sft", 0, gold=math.nan)).best_of[0].gold is None


def test_grades_keep_their_order_and_reward_models_are_among_those_that_rank() -> None:
    given = experiment({"sft": 0.0, "dpo": 0.0}, seeds=2, prompts=3)
    margins = [1.0, -1.0, 0.0, 1.0, 1.0, -1.0]
    rewards = [Cell("reward", "reward-model", seed, pairs=pair_table(margins)) for seed in (0, 1)]
    given = changed(changed(given, "sft", pairs=None), "dpo", pairs=pair_table(margins))
    found = findings_of(replace(given, cells=[*given.cells, *rewards]))
    assert [(each.grade, each.pairs) for each in found.grades] == [
        ("significantly", 2),
        ("better", 2),
        ("negligibly", 2),
    ]
    assert [list(each.by) for each in found.grades] == [["dpo", "reward-model"]] * 3
    assert [each.by["dpo"].mean for each in found.grades] == [0.5, 1.0, 0.25]
    assert [method.name for method in found.methods] == ["sft", "dpo"] and found.pairs == 6
    assert found.method("dpo").metrics["accuracy"].mean == pytest.approx(3.5 / 6)
    assert found.method("dpo").metrics["logps_chosen"].mean == pytest.approx(-40 + 1 / 6)


def test_other_grades_come_as_they_first_appear_and_none_is_one_of_all_pairs() -> None:
    given = experiment({"sft": 0.0, "dpo": 0.0}, seeds=2, prompts=3)
    other = changed(changed(given, "sft", pairs=None), "dpo", pairs=pair_table([1.0] * 4, ["wins", "a bit", "better"]))
    assert [each.grade for each in findings_of(other).grades] == ["better", "wins", "a bit"]
    without = changed(changed(given, "sft", pairs=None), "dpo", pairs=pair_table([1.0] * 4, []))
    assert [(each.grade, each.pairs) for each in findings_of(without).grades] == [("", 4)]
    with pytest.raises(ValueError, match="dpo with seed 1: pair 0 has another grade"):
        findings_of(changed(changed(other, "sft", pairs=None), "dpo", 1, pairs=pair_table([1.0] * 4, ["x", "y"])))


def right(*answers: float, file: str = "a.csv") -> list[dict[str, object]]:
    return [{"file": file, "question": n, "picked": 0, "answer": 0, "correct": each} for n, each in enumerate(answers)]


def test_choices_are_mcnemars_and_corrected_over_methods_and_files() -> None:
    given = experiment({"sft": 0.0, "dpo": 0.0, "ipo": 0.0}, seeds=1, prompts=3)
    rng = np.random.default_rng(0)
    answers = {name: rng.random((2, 30)) < p for name, p in (("sft", 0.3), ("dpo", 0.8), ("ipo", 0.4))}
    for name, (first, second) in answers.items():
        rows = [*right(*second, file="b.csv"), *right(*first)]
        given = changed(given, name, choices=table(rows, CHOICES))
    found = findings_of(given).choices
    p = holm([mcnemar(answers[name][file], answers["sft"][file]).p for name in ("dpo", "ipo") for file in (0, 1)])
    assert [(each.name, each.questions) for each in found] == [("a.csv", 30), ("b.csv", 30)]
    assert [found[file].p[name] for name in ("dpo", "ipo") for file in (0, 1)] == pytest.approx(p)
    assert found[0].by["dpo"].mean == answers["dpo"][0].mean() and set(found[0].p) == {"dpo", "ipo"}
    assert findings_of(given).method("dpo").metrics["choices"].mean == answers["dpo"].mean()


def test_a_question_counts_once_however_many_seeds_answer_it() -> None:
    given = experiment({"sft": 0.0, "dpo": 0.0}, seeds=2, prompts=3)
    given = changed(given, "sft", choices=table(right(*[0.0] * 6), CHOICES))
    given = changed(given, "dpo", choices=table(right(*[1.0] * 6), CHOICES))
    (found,) = findings_of(given).choices
    assert found.p == {"dpo": sign_test(6, 0)} and found.by["dpo"].high == 1.0 and found.by["dpo"].low < 0.7


def by_judge(given: Experiment, outcomes: list[list[float]], longer: float = 0.0, **orders: list[float]) -> Experiment:
    keys = list(given.prompts)
    for seed, each in enumerate(outcomes):
        frame = judgements(keys, each, np.linspace(-longer, 2 * longer, len(keys)), **orders)
        given = changed(given, "dpo", seed, judgements={"gold": frame})
    return given


def test_win_rates_by_hand() -> None:
    given = by_judge(experiment({"sft": 0.0, "dpo": 0.0}, seeds=2, prompts=4), [[1, 1, 0.5, 0], [1, 1, 1, 0]])
    (judge,) = findings_of(given).judges
    (rate,) = judge.rates
    assert (judge.name, judge.kind, rate.method) == ("gold", "gold", "dpo")
    assert (rate.wins, rate.ties, rate.losses, rate.failures) == (5, 1, 2, 0)
    assert rate.rate.mean == 5.5 / 8 and rate.p == sign_test(3, 1)
    known = stats.t.interval(0.95, 3, 5.5 / 8, stats.sem([1, 1, 0.75, 0]))
    assert (rate.rate.low, rate.rate.high) == pytest.approx(tuple(np.clip(known, 0, 1)))
    assert rate.flip_rate is None and rate.first_preferred is None
    assert findings_of(given).method("dpo").metrics["win_rate"] == rate.rate


def test_what_a_judge_failed_at_is_in_no_other_number() -> None:
    given = experiment({"sft": 0.0, "dpo": 0.0}, seeds=2, prompts=4)
    (rate,) = findings_of(by_judge(given, [[1, math.nan, 0, 1], [1, math.nan, math.nan, 1]])).judges[0].rates
    assert (rate.wins, rate.losses, rate.failures, rate.rate.mean, rate.p) == (4, 1, 3, 0.8, sign_test(2, 1))
    found = findings_of(by_judge(given, [[math.nan] * 4] * 2))
    assert found.judges[0].rates == [] and "win_rate" not in found.method("dpo").metrics
    assert found.samples[0].answers[1].outcome is None
    (rate,) = findings_of(by_judge(given, [[math.nan] * 4, [1, 0, 1, math.nan]], 1.0)).judges[0].rates
    (alone,) = findings_of(by_judge(given, [[1, 0, 1, math.nan]], 1.0)).judges[0].rates
    assert (rate.failures, rate.wins, rate.rate.mean) == (5, 2, 2 / 3) and rate.length_controlled is not None
    assert alone.wins + alone.losses > 3  # the second seed's are those of the gold reward


def test_both_orders_are_told() -> None:
    given = experiment({"sft": 0.0, "dpo": 0.0}, seeds=1, prompts=4)
    orders = {"shown_first": [1.0, 1.0, 0.0, math.nan], "shown_second": [0.0, 1.0, 1.0, 1.0]}
    (rate,) = findings_of(by_judge(given, [[0.5, 1, 0.5, math.nan]], **orders)).judges[0].rates
    assert (rate.flip_rate, rate.first_preferred) == (2 / 3, 0.5)
    orders = {"shown_first": [1.0] * 4, "shown_second": [1.0] * 4}
    (rate,) = findings_of(by_judge(given, [[1.0] * 4], **orders)).judges[0].rates
    assert (rate.flip_rate, rate.first_preferred) == (0.0, None)


def test_length_is_controlled_as_compare_does_and_seeds_are_no_new_prompts() -> None:
    rng = np.random.default_rng(1)
    outcomes = (rng.random(60) < np.linspace(0.3, 0.9, 60)).astype(float).tolist()
    once, thrice = (experiment({"sft": 0.0, "dpo": 0.0}, seeds=seeds) for seeds in (1, 3))
    (one,) = findings_of(by_judge(once, [outcomes], 5.0)).judges[0].rates
    known = length_controlled(outcomes, np.linspace(-5, 10, 60))
    assert one.length_controlled.mean == pytest.approx(known.rate) and known.rate < known.raw
    assert (one.length_controlled.low, one.length_controlled.high) == pytest.approx(tuple(known.interval), abs=0.02)
    (three,) = findings_of(by_judge(thrice, [outcomes] * 3, 5.0)).judges[0].rates
    assert three.length_controlled.low == pytest.approx(one.length_controlled.low, abs=0.01)
    assert three.p == one.p and three.rate.low == pytest.approx(one.rate.low)


def test_length_is_not_controlled_where_nothing_was_lost_or_one_side_always_longer() -> None:
    given = experiment({"sft": 0.0, "dpo": 0.0}, seeds=1, prompts=4)
    assert findings_of(by_judge(given, [[1.0] * 4], 1.0)).judges[0].rates[0].length_controlled is None
    given = changed(given, "dpo", judgements={"gold": judgements(list(given.prompts), [1, 0, 1, 0], 3.0)})
    assert findings_of(given).judges[0].rates[0].length_controlled is None


def test_histograms_have_common_edges_and_count_outliers_at_the_ends() -> None:
    given = experiment({"sft": 0.0, "dpo": 3.0}, seeds=2, prompts=100)
    given = column(given, "dpo", 0, gold=[1e6, *np.zeros(199)])
    found = {each.metric: each for each in findings_of(given).histograms}
    assert list(found) == ["score", "gold", "length"] and set(found["gold"].shares) == {"sft", "dpo"}
    assert found["gold"].edges[-1] < 20 and len(found["gold"].edges) == 31
    assert all(sum(shares) == pytest.approx(1) for each in found.values() for shares in each.shares.values())
    assert found["length"].edges == [9.5, 10.5] and found["length"].shares["sft"] == [1.0]


def test_bins_of_whole_numbers_hold_equally_many() -> None:
    assert set(np.diff(edges_of(np.arange(1.0, 101.0)))) == {4.0}
    assert edges_of(np.arange(5.0)).tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5]
    assert edges_of(np.array([0.25, 0.25])).tolist() == [-0.25, 0.75]


def test_lengths_are_thinned_and_their_correlation_is_not() -> None:
    given = experiment({"sft": 0.0, "dpo": 0.0}, prompts=100)
    lengths = {seed: np.random.default_rng(seed).integers(1, 50, 200) for seed in range(5)}
    for seed, each in lengths.items():
        given = column(given, "dpo", seed, length=each)
    sft, dpo = findings_of(given).lengths
    rewards = np.concatenate([cell.responses["gold"] for cell in given.cells if cell.name == "dpo"])
    assert len(dpo.length) == len(dpo.reward) == 300 and sft.correlation is None
    assert dpo.correlation == pytest.approx(stats.spearmanr(np.concatenate(list(lengths.values())), rewards).statistic)
    assert dpo.length[0] == lengths[0][0] and dpo.length[-1] == lengths[4][-1]


def test_samples_are_first_responses_with_the_first_seed_that_all_have() -> None:
    given = experiment({"sft": 0.0, "dpo": 0.0}, prompts=300)
    found = findings_of(replace(given, cells=[each for each in given.cells if (each.name, each.seed) != ("dpo", 0)]))
    assert len(found.samples) == 200 and {sample.seed for sample in found.samples} == {1}
    assert (found.samples[0].key, found.samples[-1].key) == ("p000", "p299")
    sft, dpo = found.samples[7].answers
    key = found.samples[7].key
    assert dpo.text == f"dpo 1 says {key} number 0." and sft.outcome is None
    assert dpo.outcome == float(dpo.values["gold"] > sft.values["gold"]) and dpo.finished
    assert list(dpo.values) == ["score", "gold", "length", "kl"] and found.samples[7].prompt[0]["role"] == "user"


def test_perplexity_is_of_all_tokens_and_an_empty_response_has_none() -> None:
    given = experiment({"sft": 0.0, "dpo": 0.0}, seeds=1, prompts=3, k=1)
    given = column(given, "dpo", length=[1, 4, 0], perplexity=[8.0, 2.0, math.nan])
    found = findings_of(given).method("dpo").metrics["perplexity"]
    assert found.mean == pytest.approx(2 ** (7 / 5)) and found.low < found.mean < found.high
    assert "perplexity" not in findings_of(column(given, "dpo", length=0)).method("dpo").metrics
    with pytest.raises(ValueError, match="dpo with seed 0: nll is nan at 'p002'"):
        findings_of(column(given, "dpo", length=[1, 4, 2]))


def test_a_ratio_of_equal_lengths_is_a_mean_with_its_interval() -> None:
    nll = np.random.default_rng(0).normal(20, 3, size=(5, 40))
    ratio, mean = EVERYWHERE.ratio(nll, np.full_like(nll, 10.0)), EVERYWHERE.of(nll / 10)
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx(
        tuple(math.exp(each) for each in (mean.mean, mean.low, mean.high))
    )


def test_intervals_with_holes_are_a_little_wider_and_without_any_those_of_the_claims() -> None:
    whole = np.random.default_rng(0).normal(size=(5, 200)) + np.random.default_rng(1).normal(size=200)
    holes = np.where(np.random.default_rng(2).random(whole.shape) < 0.1, np.nan, whole)
    variance = sum(float(part.variance) for part in parts([whole], Claim.METHODS))
    assert EVERYWHERE.half(whole) ** 2 > variance and HERE.half(whole) == pytest.approx(
        stats.t.ppf(0.975, 199) * stats.sem(whole.mean(0))
    )
    for means in (HERE, EVERYWHERE):
        assert 0.95 < means.half(holes) / means.half(whole) < 1.35
        assert means.of(holes).mean == np.nanmean(holes)


def test_what_cannot_have_an_interval_has_none_and_shares_stay_shares() -> None:
    assert HERE.of(np.ones((3, 1))) == Value(1.0) and EVERYWHERE.of(np.ones((1, 3))) == Value(1.0)
    assert HERE.share(np.ones((3, 1))) == Value(1.0)
    wilson = stats.binomtest(20, 20).proportion_ci(method="wilson")
    assert HERE.share(np.ones((2, 20))) == Value(1.0, pytest.approx(wilson.low), 1.0)
    assert HERE.share(np.full((2, 20), 0.5)) == Value(0.5)  # ties alone
    few = HERE.share(np.array([[1.0, 1, 1, 0]]))
    assert few.low >= 0 and few.high == 1.0

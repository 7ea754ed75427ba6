"""Each warning is given where it is due, and not where it is not; words.py has a sentence for each."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from prefopt.compare.records import Cell, Experiment
from prefopt.compare.report.findings import Findings, Warning
from prefopt.compare.report.numbers import findings_of
from prefopt.compare.report.words import Words
from tests.helpers.comparison_results import COST, changed, column, experiment, judgements, pair_table

SCORED = {**COST, "shared": {"sft": 5e11, "reward model": 1e11}}


def warned(given: Experiment | Findings, key: str) -> list[Warning]:
    """Of this key; they can be said in either language."""
    found = given if isinstance(given, Findings) else findings_of(given)
    for warning in found.warnings:
        assert Words("en")(warning.key, **warning.values) and Words("zh")(warning.key, **warning.values)
    return [warning for warning in found.warnings if warning.key == key]


def plain(**sizes: Any) -> Experiment:
    return experiment({"sft": 0.0, "dpo": 1.0}, **{"pairs": 3, "questions": 3, **sizes})


def test_a_sound_experiment_has_no_warnings() -> None:
    assert findings_of(plain()).warnings == []


@pytest.mark.parametrize(("seeds", "few"), [(1, True), (4, True), (5, False)])
def test_few_seeds(seeds: int, few: bool) -> None:
    found = warned(plain(seeds=seeds), "few_seeds")
    assert found == ([Warning("few_seeds", {"seeds": seeds, "needed": 5}, True)] if few else [])


@pytest.mark.parametrize(("prompts", "few"), [(2, True), (33, True), (34, False)])
def test_few_prompts(prompts: int, few: bool) -> None:
    given = findings_of(plain(prompts=prompts))
    found = warned(given, "few_prompts")
    known = {"prompts": prompts, "detectable": given.pairings[0].detectable}
    assert found == ([Warning("few_prompts", known, True)] if few else [])


def test_one_prompt() -> None:
    assert warned(plain(prompts=1), "one_prompt") == [Warning("one_prompt", {"prompts": 1}, True)]
    assert warned(plain(prompts=1), "few_prompts") == [] == warned(plain(prompts=2), "one_prompt")


@pytest.mark.parametrize(("lost", "serious"), [(1, False), (2, True), (5, True)])
def test_missing_seeds_are_serious_where_they_cost_the_verdict(lost: int, serious: bool) -> None:
    given = experiment({"sft": 0.0, "dpo": 1.0, "ipo": 0.0}, seeds=6, pairs=3, questions=3)
    found = warned(replace(given, cells=[c for c in given.cells if c.name != "dpo" or c.seed >= lost]), "missing_seeds")
    assert found == [Warning("missing_seeds", {"method": "dpo", "seeds": list(range(lost))}, serious)]


def test_missing_seeds_do_not_change_what_few_seeds_can_say() -> None:
    given = plain(seeds=3)
    (found,) = warned(replace(given, cells=given.cells[:-1]), "missing_seeds")
    assert not found.serious


def in_both_orders(flips: int, first: int, prompts: int = 40) -> Experiment:
    """A judge that flips so often, and then takes what stood first so often."""
    given = plain(seeds=1, prompts=prompts)
    shown_first = [1.0] * first + [0.0] * (flips - first) + [1.0] * (prompts - flips)
    shown_second = [0.0] * first + [1.0] * (flips - first) + [1.0] * (prompts - flips)
    outcomes = [0.5] * flips + [1.0] * (prompts - flips)
    frame = judgements(list(given.prompts), outcomes, shown_first=shown_first, shown_second=shown_second)
    return changed(given, "dpo", judgements={"gold": frame})


def test_a_judge_that_flips_or_leans() -> None:
    assert warned(in_both_orders(10, 5), "judge_flips") == [Warning("judge_flips", {"judge": "gold", "rate": 0.25})]
    assert warned(in_both_orders(8, 4), "judge_flips") == []
    assert warned(in_both_orders(8, 8), "judge_leans") == [Warning("judge_leans", {"judge": "gold", "rate": 1.0})]
    assert warned(in_both_orders(10, 0), "judge_leans") == [Warning("judge_leans", {"judge": "gold", "rate": 0.0})]
    assert warned(in_both_orders(8, 6), "judge_leans") == [] == warned(in_both_orders(0, 0), "judge_leans")


@pytest.mark.parametrize(("failed", "serious"), [(0, None), (1, False), (4, True), (40, True)])
def test_a_judge_that_failed(failed: int, serious: bool | None) -> None:
    given = plain(seeds=1, prompts=40)
    outcomes = [math.nan] * failed + [1.0] * (40 - failed)
    given = changed(given, "dpo", judgements={"gold": judgements(list(given.prompts), outcomes)})
    values = {"judge": "gold", "method": "dpo", "failed": failed, "asked": 40}
    assert warned(given, "judge_failed") == ([] if serious is None else [Warning("judge_failed", values, serious)])


def test_scores_that_also_trained_do_not_judge_unnoticed() -> None:
    given = changed(plain(), "dpo", cost=SCORED)
    assert warned(given, "same_scorer") == []
    assert warned(replace(plain(), primary="score"), "same_scorer") == []
    scored = replace(given, primary="score")
    assert warned(scored, "same_scorer") == [Warning("same_scorer", {"scorer": "score"}, True)]
    selected = changed(replace(plain(), primary="score"), "dpo", cost={**COST, "flops": {"scoring": 1.0}})
    assert len(warned(selected, "same_scorer")) == 1


@pytest.mark.parametrize(("right", "weak"), [(12, True), (13, True), (15, False)])
def test_a_reward_model_no_better_than_chance(right: int, weak: bool) -> None:
    """Of 20 pairs; the interval of .65 is [.42, .88], that of .75 is [.54, .96]."""
    given = plain()
    given = changed(changed(given, "sft", pairs=None), "dpo", pairs=None)
    reward = Cell("reward", "reward-model", 0, pairs=pair_table([1.0] * right + [-1.0] * (20 - right)))
    given = replace(given, cells=[*given.cells, reward])
    found = warned(given, "weak_reward_model")
    assert bool(found) == weak
    if weak:
        assert found[0].values["accuracy"] == right / 20 and not found[0].serious  # gold decides here


def test_a_reward_model_that_gives_everything_the_same_is_no_better_than_chance() -> None:
    given = changed(changed(plain(), "sft", pairs=None), "dpo", pairs=None)
    given = replace(given, cells=[*given.cells, Cell("reward", "reward-model", 0, pairs=pair_table([0.0] * 20))])
    (warning,) = warned(given, "weak_reward_model")
    assert warning.values == {"accuracy": 0.5, "low": 0.5, "high": 0.5}


def curve(score: list[float], gold: list[float], error: float = 0.1) -> list[dict[str, Any]]:
    errors = {"score": error, "gold": error}
    at = [{"look": n, "step": 10 * n, "share": n / 4, "flops": 1e9 * n} for n in range(len(score))]
    values = [{"score": s, "gold": g} for s, g in zip(score, gold, strict=True)]
    return [{**where, "values": each, "errors": errors} for where, each in zip(at, values, strict=True)]


RISING, FALLING = [0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 1.6, 1.4]


@pytest.mark.parametrize(
    ("score", "gold", "error", "overdone"),
    [
        (RISING, FALLING, 0.1, True),
        (RISING, FALLING, 0.18, False),  # within the noise: z is 2.5 of five moments
        (RISING, FALLING, 0.16, True),
        (RISING, RISING, 0.1, False),
        ([0.0, 1.0, 2.0, 2.0, 2.1], FALLING, 0.1, False),  # both fell, or stood still: nothing was bought
    ],
)
def test_over_optimisation_along_a_curve(score: list[float], gold: list[float], error: float, overdone: bool) -> None:
    given = changed(plain(), "dpo", curve=curve(score, gold, error))
    found = warned(given, "over_optimised")
    if overdone:
        (warning,) = found
        assert warning.serious and warning.values == pytest.approx({"method": "dpo", "score_rise": 2, "gold_fall": 0.6})
    assert bool(found) == overdone


def test_a_curve_is_judged_where_all_seeds_have_it_and_by_their_mean() -> None:
    given = changed(plain(seeds=2), "dpo", curve=curve(RISING, FALLING))
    given = changed(given, "dpo", 1, curve=curve(RISING[:3], FALLING[:3]))
    assert warned(given, "over_optimised") == [] and len(findings_of(given).curves) == 8
    given = changed(given, "dpo", 1, curve=curve(RISING, [0.0, 1.0, 2.0, 2.2, 2.4]))
    assert warned(given, "over_optimised") == []


def test_seeds_of_unequal_length_are_one_curve() -> None:
    """Pairs that tie, or winners that are one response, leave some seeds with fewer steps."""
    shorter = [{**each, "step": 9 * each["look"]} for each in curve(RISING, FALLING)]
    given = changed(changed(plain(seeds=2), "dpo", curve=curve(RISING, FALLING)), "dpo", 1, curve=shorter)
    (warning,) = warned(given, "over_optimised")
    assert warning.values == pytest.approx({"method": "dpo", "score_rise": 2, "gold_fall": 0.6})


def test_a_curve_without_gold_or_errors_says_nothing_and_holds_no_nan() -> None:
    moments = [
        {**each, "values": {**each["values"], "gold": math.nan}, "errors": {"score": math.inf}}
        for each in curve(RISING, FALLING)
    ]
    found = findings_of(changed(plain(seeds=1), "dpo", curve=moments[::-1]))
    assert warned(found, "over_optimised") == []
    assert [moment.step for moment in found.curves] == [0, 10, 20, 30, 40]
    assert found.curves[0].values == {"score": 0.0} and found.curves[0].errors == {}


def test_over_optimisation_at_the_end_is_against_where_training_started() -> None:
    given = plain()
    higher = {
        seed: cell.responses["gold"] + 3 for seed, cell in enumerate(given.cells[:5]) if cell.responses is not None
    }
    for seed, score in higher.items():
        given = column(given, "dpo", seed, score=score + np.random.default_rng(seed).normal(size=120))
    assert warned(given, "over_optimised") == []
    lower = {seed: score - 4 for seed, score in higher.items()}
    for seed, gold in lower.items():
        given = column(given, "dpo", seed, gold=gold + 0.1 * np.random.default_rng(seed).normal(size=120))
    (found,) = warned(given, "over_optimised")
    assert found.values == {
        "method": "dpo",
        "score_rise": pytest.approx(3, abs=0.3),
        "gold_fall": pytest.approx(1, abs=0.1),
    }
    assert warned(changed(given, "sft", method="kto"), "over_optimised") == []


def test_unequal_cost_leaves_sft_out() -> None:
    given = experiment({"sft": 0.0, "dpo": 1.0, "ipo": 1.0}, pairs=3, questions=3)
    given = changed(given, "sft", cost={"flops": {"training": 1.0}})
    assert warned(given, "unequal_cost") == []
    dear = changed(given, "ipo", cost={"flops": {"training": 1e12, "trials": 2.5e12}, "shared": {"sft": 5e11}})
    (found,) = warned(dear, "unequal_cost")
    assert found.values == {"cheapest": "dpo", "dearest": "ipo", "ratio": pytest.approx(4 / 1.5)}
    assert warned(changed(given, "ipo", cost={"flops": {"training": 3e12}}), "unequal_cost") == []


@pytest.mark.parametrize(("key", "most"), [("unfinished", 0.2), ("degenerate", 0.05)])
def test_responses_that_are_cut_off_or_degenerate(key: str, most: float) -> None:
    given = plain(prompts=50)

    def having(count: int) -> Experiment:
        some = np.arange(100) < count
        return column(given, "dpo", **({"finished": ~some} if key == "unfinished" else {"degenerate": some}))

    count = round(100 * most)
    (found,) = warned(having(count + 1), key)
    assert found.values == {"method": "dpo", "share": pytest.approx(most + 0.01)}
    assert warned(having(count), key) == []


def test_identical_methods_gave_the_same_words() -> None:
    given = plain()
    ours = [cell for cell in given.cells if cell.name == "sft"]
    same = [replace(each, name="dpo", method="dpo", judgements={}) for each in ours]
    found = findings_of(replace(given, cells=[*ours, *same]))
    assert warned(found, "identical") == [Warning("identical", {"first": "sft", "second": "dpo"})]
    assert found.pairings[0].p == 1.0 and found.pairings[0].detectable is None
    assert warned(column(column(given, "sft", gold=1.0), "dpo", gold=1.0), "identical") == []


def test_notes_and_failures_pass_through() -> None:
    note = {"key": "one_stage", "values": {}, "serious": True}
    failure = {"method": "dpo", "seed": 2, "reason": "loss is nan", "details": "Traceback"}
    found = findings_of(replace(plain(), notes=[note], failures=[failure]))
    values = {"method": "dpo", "seed": 2, "reason": "loss is nan"}
    assert found.warnings == [Warning("one_stage", {}, True), Warning("cell_failed", values, True)]
    assert found.failures[0].details == "Traceback" and warned(found, "one_stage")


def test_no_reward_model() -> None:
    given = column(column(plain(), "sft", gold=math.nan, score=math.nan), "dpo", gold=math.nan, score=math.nan)
    assert warned(given, "no_reward_model") == [Warning("no_reward_model", {}, True)]
    assert warned(plain(), "no_reward_model") == []

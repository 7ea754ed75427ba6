"""From tables to findings: by hand where it is small, against `prefopt.compare` where it is not."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from prefopt.compare import Verdict, frontier, who_beats_whom
from prefopt.compare.records import Cell, Experiment
from prefopt.compare.report.findings import Findings, Value
from prefopt.compare.report.numbers import findings_of
from prefopt.compare.report.numbers.tables import data_of
from tests.helpers.comparison_results import changed, column, experiment, judgements, pair_table, responses

KEYS = ["x", "y", "z"]
GOLD = {
    ("sft", 0): [[0.0, 2.0], [1.0, 1.0], [2.0, 4.0]],
    ("sft", 1): [[1.0, 1.0], [0.0, 0.0], [1.0, 3.0]],
    ("dpo", 0): [[2.0, 2.0], [1.0, 3.0], [3.0, 5.0]],
    ("dpo", 1): [[1.0, 3.0], [2.0, 0.0], [2.0, 6.0]],
}
GAINS = [[1.0, 1.0, 1.0], [1.0, 1.0, 2.0]]  # of dpo, by seed


def small(**fields: Any) -> Experiment:
    cells = [
        Cell(name, name, seed, responses=responses(KEYS, gold, name=f"{name} {seed}"))
        for (name, seed), gold in GOLD.items()
    ]
    prompts = {key: [{"role": "user", "content": key}] for key in KEYS}
    given: dict[str, Any] = {"cells": cells, "names": ["sft", "dpo"], "seeds": [0, 1], "prompts": prompts}
    return Experiment(**{"title": "Small", "baseline": "sft", **given, **fields})


def keys(found: Findings) -> list[str]:
    return [warning.key for warning in found.warnings]


def test_two_methods_two_seeds_three_prompts_by_hand() -> None:
    found = findings_of(small())
    assert (found.primary, found.claim, found.prompts, found.pairs) == ("gold", "CHECKPOINTS", 3, 0)
    sft, dpo = found.methods
    assert (sft.metrics["gold"].mean, dpo.metrics["gold"].mean) == pytest.approx((16 / 12, 30 / 12))
    assert "gain" not in sft.metrics and "score" not in sft.metrics and "kl_k3" not in sft.metrics
    by_prompt = np.mean(GAINS, axis=0)  # 1, 1, 1.5
    known = stats.ttest_1samp(by_prompt, 0)
    (pairing,) = found.pairings
    assert (pairing.first, pairing.second) == ("sft", "dpo")
    assert pairing.difference.mean == pytest.approx(-7 / 6)
    assert pairing.p == pytest.approx(known.pvalue) and pairing.verdict == Verdict.DIFFER
    assert pairing.effect == pytest.approx(-by_prompt.mean() / by_prompt.std(ddof=1))
    low, high = known.confidence_interval(0.95)
    assert dpo.metrics["gain"] == Value(pytest.approx(7 / 6), pytest.approx(low), pytest.approx(high))
    assert pairing.difference == Value(pytest.approx(-7 / 6), pytest.approx(-high), pytest.approx(-low))
    prompts = np.mean([np.mean(GOLD["dpo", seed], axis=1) for seed in (0, 1)], axis=0)
    interval = stats.t.interval(0.95, 2, prompts.mean(), stats.sem(prompts))
    assert (dpo.metrics["gold"].low, dpo.metrics["gold"].high) == pytest.approx(interval)
    assert "few_seeds" in keys(found) and "few_prompts" in keys(found)


def test_a_planted_effect_is_found_and_holm_corrects_all_pairs() -> None:
    given = experiment({"sft": 0.0, "dpo": 1.0, "ipo": 0.0})
    found = findings_of(given)
    gold = {name: table.means for name, table in data_of(given).known("gold").items()}
    matrix = who_beats_whom(gold)
    assert found.claim == "METHODS" and keys(found) == []
    assert found.pairing("sft", "dpo").verdict == Verdict.LOSES
    assert found.pairing("dpo", "ipo").verdict == Verdict.BEATS
    assert found.pairing("sft", "ipo").verdict == Verdict.UNDECIDED
    for pairing in found.pairings:
        pair = (pairing.first, pairing.second)
        assert pairing.p == matrix.p[pair] and pairing.verdict == matrix.verdict(*pair)
        interval = matrix.differences[pair].interval
        assert (pairing.difference.low, pairing.difference.high) == pytest.approx(tuple(interval))
    assert 0.02 < found.pairing("sft", "ipo").detectable < 0.4


def test_of_twelve_equal_methods_none_beats_another() -> None:
    found = findings_of(experiment({"sft": 0.0, **{f"m{number}": 0.0 for number in range(11)}}, pairs=3, questions=2))
    assert {pairing.verdict for pairing in found.pairings} == {Verdict.UNDECIDED}
    assert len(found.pairings) == 66


def test_the_order_of_cells_and_rows_changes_nothing() -> None:
    given = experiment({"sft": 0.0, "dpo": 0.3}, seeds=2, prompts=20)
    rng = np.random.default_rng(0)

    def mixed(cell: Cell) -> Cell:
        tables = {
            name: getattr(cell, name).sample(frac=1, random_state=rng) for name in ("responses", "pairs", "choices")
        }
        by_judge = {name: frame.sample(frac=1, random_state=rng) for name, frame in cell.judgements.items()}
        return replace(cell, **tables, judgements=by_judge)

    cells = [mixed(given.cells[place]) for place in rng.permutation(len(given.cells))]
    assert findings_of(replace(given, cells=cells)) == findings_of(given)


def test_json_holds_all_of_it_and_no_nan(tmp_path: Path) -> None:
    given = experiment({"sft": 0.0, "dpo": 0.3}, seeds=2, prompts=20)
    given = column(given, "sft", kl=math.nan, perplexity=math.nan)
    found = findings_of(given)
    assert json.loads(found.write(tmp_path).read_text("utf-8")) == json.loads(json.dumps(asdict(found)))
    assert "NaN" not in (tmp_path / "report.json").read_text("utf-8")
    sft, dpo = found.methods
    assert "kl" in dpo.metrics and not {"kl", "perplexity"} & set(sft.metrics)
    assert [point.name for point in found.frontier] == ["dpo"]


def test_every_metric_is_there_in_the_order_of_the_table() -> None:
    given = column(experiment({"sft": 0.0, "dpo": 0.3}, seeds=2, prompts=20), "dpo", kl_k3=0.5)
    metrics = findings_of(given).method("dpo").metrics
    names = "gold score gain win_rate kl kl_k3 length unfinished degenerate distinct_2 perplexity accuracy margin"
    assert list(metrics) == [*names.split(), "logps_chosen", "choices"]
    assert metrics["distinct_2"].low is None and 0 < metrics["distinct_2"].mean < 1
    assert metrics["unfinished"] == Value(
        0.0, 0.0, pytest.approx(stats.binomtest(0, 20).proportion_ci(method="wilson").high)
    )


def test_a_missing_cell_is_missed_by_its_own_pairs_alone() -> None:
    given = experiment({"sft": 0.0, "dpo": 1.0, "ipo": 2.0})
    cells = [cell for cell in given.cells if (cell.name, cell.seed) != ("ipo", 3)]
    failures = [{"method": "ipo", "seed": 3, "reason": "loss is nan", "details": "Traceback"}]
    found, whole = findings_of(replace(given, cells=cells, failures=failures)), findings_of(given)
    assert found.claim == "METHODS" and found.method("ipo").seeds == [0, 1, 2, 4]
    assert found.pairing("sft", "dpo").difference == whole.pairing("sft", "dpo").difference
    assert found.pairing("sft", "ipo").verdict == Verdict.DIFFER
    assert found.failures[0].details == "Traceback"
    assert [(each.key, each.serious) for each in found.warnings] == [("cell_failed", True), ("missing_seeds", True)]
    assert found.warnings[1].values == {"method": "ipo", "seeds": [3]}


def test_without_the_baseline_the_rest_is_still_compared() -> None:
    given = experiment({"sft": 0.0, "dpo": 1.0, "ipo": 2.0}, judges={})
    cells = [replace(cell, judgements={}) for cell in given.cells if cell.name != "sft"]
    found = findings_of(replace(given, cells=cells))
    assert [method.name for method in found.methods] == ["dpo", "ipo"] and len(found.pairings) == 1
    assert "gain" not in found.method("dpo").metrics


def test_without_any_cell_there_is_a_report_that_says_so(tmp_path: Path) -> None:
    found = findings_of(replace(experiment({"sft": 0.0, "dpo": 1.0}), cells=[]))
    assert found.methods == [] and found.samples == [] and found.write(tmp_path).is_file()
    assert keys(found) == ["few_seeds", "no_reward_model"]


def test_one_prompt_has_means_without_intervals_and_no_pairings(tmp_path: Path) -> None:
    found = findings_of(experiment({"sft": 0.0, "dpo": 1.0}, prompts=1))
    dpo = found.method("dpo").metrics
    assert found.pairings == [] and found.claim == "CHECKPOINTS" and keys(found) == ["one_prompt"]
    assert dpo["gold"].low is None and dpo["win_rate"].low is None and found.best_of[0].best[0].low is None
    assert dpo["gain"].mean == pytest.approx(dpo["gold"].mean - found.method("sft").metrics["gold"].mean)
    assert len(found.frontier) == 2 and len(found.samples) == 1 and dpo["accuracy"].low is not None
    assert found.judges[0].rates[0].p is None and found.write(tmp_path).is_file()


def test_gold_decides_where_all_have_it_and_the_score_where_not() -> None:
    given = experiment({"sft": 0.0, "dpo": 1.0}, seeds=2, prompts=20)
    assert findings_of(given).primary == "gold"
    assert findings_of(replace(given, primary="score")).primary == "score"
    found = findings_of(column(given, "dpo", gold=math.nan))
    assert found.primary == "score" and "gold" not in found.method("dpo").metrics
    assert "gold" in found.method("sft").metrics and len(found.pairings) == 1
    neither = column(column(given, "sft", gold=math.nan, score=math.nan), "dpo", gold=math.nan, score=math.nan)
    found = findings_of(neither)
    assert found.pairings == [] and found.frontier == [] and "no_reward_model" in keys(found)
    assert "length" in found.method("dpo").metrics
    with pytest.raises(ValueError, match=r"primary='gold'.*\['score'\]"):
        findings_of(replace(column(column(given, "sft", gold=math.nan), "dpo", gold=math.nan), primary="gold"))


def test_a_seed_without_a_score_is_no_seed_of_the_score() -> None:
    given = experiment({"sft": 0.0, "dpo": 1.0}, primary="score")
    found = findings_of(column(given, "dpo", 2, score=math.nan))
    assert found.pairings[0].verdict == Verdict.DIFFER and found.claim == "CHECKPOINTS"
    assert found.warnings[1].values == {"method": "dpo", "seeds": [2]}


def test_the_frontier_is_that_of_compare() -> None:
    given = experiment({"sft": 0.0, "dpo": 1.0, "ipo": 0.5})
    for number, name in enumerate(given.names):
        for seed in given.seeds:
            kls = np.random.default_rng([number, seed]).normal((0.0, 2.0, 4.0)[number], 0.1, size=120)
            given = column(given, name, seed, kl=kls)
    data = data_of(given)
    gold, kl = ({name: table.means for name, table in data.known(each).items()} for each in ("gold", "kl"))
    known = [(point.name, point.dominated_by, point.clearly_by) for point in frontier(gold, kl)]
    found = findings_of(given).frontier
    assert [(point.name, point.dominated_by, point.clearly_by) for point in found] == known
    assert ("ipo", ("dpo",), ("dpo",)) in known
    assert found[1].reward == findings_of(given).method(found[1].name).metrics["gold"]


def test_a_known_kl_is_certain_on_the_frontier() -> None:
    given = experiment({"sft": 0.0, "best": -1.0})  # the bound log n - (n - 1) / n is the same of all responses
    given = column(column(given, "sft", kl=0.0), "best", kl=1.2)
    assert findings_of(given).frontier[1].clearly_by == ("sft",)


def test_seeds_that_gave_the_very_same_are_one_pair_of_checkpoints() -> None:
    given = experiment({"sft": 0.0, "dpo": 1.0})
    first = {cell.name: cell.responses for cell in given.cells if cell.seed == 0}
    found = findings_of(replace(given, cells=[replace(cell, responses=first[cell.name]) for cell in given.cells]))
    assert found.pairings[0].verdict == Verdict.DIFFER


def test_the_same_difference_at_every_prompt_is_told_by_signs() -> None:
    found = findings_of(column(column(experiment({"sft": 0.0, "dpo": 0.0}), "sft", gold=0.0), "dpo", gold=1.0))
    (pairing,) = found.pairings
    assert pairing.p == pytest.approx(2 * 0.5**60) and pairing.verdict == Verdict.DIFFER
    assert pairing.difference == Value(-1.0) and pairing.effect is None and pairing.detectable is None
    assert found.method("dpo").metrics["gain"] == Value(1.0)


def test_one_seed_has_what_its_prompts_can_show() -> None:
    found = findings_of(experiment({"sft": 0.0, "dpo": 1.0}, seeds=1))
    assert found.pairings[0].verdict == Verdict.DIFFER and found.pairings[0].detectable > 0
    assert found.method("dpo").metrics["gold"].low is not None and found.claim == "CHECKPOINTS"


def test_under_a_claim_about_methods_one_seed_has_no_interval() -> None:
    given = experiment({"sft": 0.0, "dpo": 1.0, "ipo": 1.0})
    found = findings_of(replace(given, cells=[each for each in given.cells if each.name != "ipo" or each.seed == 4]))
    assert found.method("ipo").metrics["gold"].low is None and found.method("dpo").metrics["gold"].low is not None


def test_costs_are_means_over_seeds_and_settings_are_one_where_they_agree() -> None:
    given = experiment({"sft": 0.0, "dpo": 0.0}, seeds=2, prompts=4)
    cost = {"flops": {"training": 4.0, "trials": 2.0}, "shared": {"sft": 8.0}, "tokens": {"training": 3}, "steps": 5}
    given = changed(given, "dpo", 0, cost={**cost, "peak_memory": 70, "cpu_seconds": 1.0}, trials=3)
    given = changed(given, "dpo", 1, cost={**cost, "flops": {"training": 6.0}}, settings={"beta": 0.2, "epochs": 1})
    method = findings_of(given).method("dpo")
    assert method.cost.flops == {"training": 5.0, "trials": 1.0} and method.cost.shared == {"sft": 8.0}
    assert (method.cost.total, method.cost.tokens, method.cost.steps) == (14.0, {"training": 3}, 5)
    assert (method.cost.peak_memory, method.cost.cpu_seconds, method.trials) == (70, 0.5, 3)
    assert method.settings == {"beta": [0.1, 0.2], "epochs": [None, 1]}
    with pytest.raises(ValueError, match=r"dpo with seed 1: its cost has \['flop'\]"):
        findings_of(changed(given, "dpo", 1, cost={"flop": {}}))


FRAME = experiment({"sft": 0.0}, seeds=1, prompts=3).cells[0].responses


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"responses": FRAME[1:]}, "dpo with seed 1: the row prompt_key=p000, k=0 is missing .1 of 6 rows are"),
        (
            {"responses": FRAME.iloc[[0, *range(6)]]},
            "seed 1: the row prompt_key=p000, k=0 is there more than once",
        ),
        (
            {"responses": responses(["p000", "p001", "p002", "q"], np.zeros((4, 2)))},
            "seed 1: the row prompt_key=q, k=0 is none of the",
        ),
        ({"responses": FRAME.assign(gold=[math.nan, *[1.0] * 5])}, "dpo with seed 1: gold is nan at 'p000'.* 1 of 6"),
        ({"responses": FRAME.drop(columns="score")}, "dpo with seed 1: a table lacks the columns score"),
        ({"responses": FRAME[FRAME["k"] == 0]}, r"dpo has \{0: 2, 1: 1\} responses"),
        ({"pairs": pair_table([1.0] * 39)}, "dpo with seed 1: the row pair=39 is missing .1 of 40 rows are"),
        ({"judgements": {"gold": judgements(["p000"], [1.0])}}, "seed 1: the row prompt_key=p001 is missing"),
        ({"judgements": {"other": judgements(["p000"], [1.0])}}, r"dpo with seed 1 has judgements by \['other'\]"),
        ({"seed": 7}, "dpo with seed 7: the plan has the seeds 0, 1"),
        ({"seed": 0}, "dpo with seed 0 is there twice"),
        ({"name": "kto"}, "kto with seed 1: the plan has no such method, but sft, dpo"),
        ({"method": "ppo"}, "dpo: its cells are of the methods dpo, ppo"),
    ],
)
def test_a_cell_that_does_not_fit_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        findings_of(changed(experiment({"sft": 0.0, "dpo": 0.0}, seeds=2, prompts=3), "dpo", 1, **fields))


def test_a_plan_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="baseline='kto' is not among sft, dpo"):
        findings_of(small(baseline="kto"))
    with pytest.raises(ValueError, match="no test prompts"):
        findings_of(small(prompts={}))

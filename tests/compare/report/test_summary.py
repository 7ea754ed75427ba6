"""The verdict says what the numbers do, whichever way round these are; tables hold what they are sorted by."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prefopt.compare import Verdict
from prefopt.compare.report import tables
from prefopt.compare.report.findings import Findings, Pairing, Value
from prefopt.compare.report.number_format import duration, interval, number, p_value, power, size
from prefopt.compare.report.summary import facing, ranking, verdict_lines, warning_lines
from prefopt.compare.report.words import Words
from tests.helpers.comparison_findings import example_findings

EN = Words("en")


@pytest.fixture
def findings() -> Findings:
    return example_findings()


def only(findings: Findings, *names: str, **changes: object) -> Findings:
    """With these methods alone."""
    methods = [findings.method(name) for name in names]
    pairings = [each for each in findings.pairings if {each.first, each.second} <= set(names)]
    return replace(findings, methods=methods, pairings=pairings, **changes)


def test_best_first_and_those_without_the_metric_last(findings: Findings) -> None:
    blind = replace(findings.method("ppo-max"), metrics={})
    methods = [blind if each.name == "ppo-max" else each for each in findings.methods]
    names = [each.name for each in ranking(replace(findings, methods=methods))]
    assert names == ["dpo", "simpo", "best-of-8", "rejection-sampling", "sft", "ppo-max"]


def test_a_pairing_seen_from_the_other_side() -> None:
    pair = Pairing("a", "b", Verdict.LOSES, Value(-1.0, -3.0, 0.5), 0.01, -0.4, 0.7)
    seen = facing(Findings("t", "gold", "METHODS", 0.95, "a", (), 1, 1, (), (pair,)), "b", "a")
    assert seen == Pairing("b", "a", Verdict.BEATS, Value(1.0, -0.5, 3.0), 0.01, 0.4, 0.7)


def test_the_leader_its_gain_and_what_it_does_to_each(findings: Findings) -> None:
    lines = verdict_lines(findings, EN)
    lead = "ppo-max has the highest gold reward: 2.11 [1.92, 2.30], +1.78 [1.47, 2.09] over the baseline sft."
    assert lines[0].replace("\u00a0", " ") == lead
    assert "ppo-max beats best-of-8, rejection-sampling and sft." in lines
    assert "Whether ppo-max is better than dpo is undecided." in lines
    assert any("checkpoints of ppo-max differ from those of simpo" in line for line in lines)
    assert any("0.43 apart" in line for line in lines)
    assert "with other seeds, on prompts like these" in lines[-2]
    assert "Seeds: 5; held-out prompts: 256; held-out pairs: 2000." in lines[-1]


def test_checkpoints_are_not_called_methods(findings: Findings) -> None:
    lines = verdict_lines(replace(findings, claim="CHECKPOINTS", seeds=(0, 1)), EN)
    assert lines[0].startswith("Of these checkpoints")
    assert "these checkpoints only" in lines[-2]


def test_a_baseline_that_leads_one_method_and_none(findings: Findings) -> None:
    assert verdict_lines(only(findings, "sft", "dpo", baseline="dpo"), EN)[0].startswith(
        "No method has a higher gold reward than the baseline dpo"
    )
    assert verdict_lines(only(findings, "sft"), EN)[0].startswith("sft is the only method")
    assert verdict_lines(only(findings), EN)[0].startswith("No method has a gold reward")
    assert verdict_lines(replace(findings, pairings=()), EN)[0].startswith("ppo-max has the highest gold reward: 2.11")


def test_serious_warnings_come_first(findings: Findings) -> None:
    turned = replace(findings, warnings=findings.warnings[::-1])
    serious = warning_lines(turned, EN, serious=True)
    assert len(serious) == 3 and warning_lines(turned, EN)[:3] == serious
    assert len(warning_lines(turned, EN)) == len(findings.warnings)


def test_the_matrix_is_the_same_from_both_sides(findings: Findings) -> None:
    table = tables.matrix(findings, EN)
    names = [row[0].text for row in table.rows]
    cell = {
        (row[0].text, column.key): cell for row in table.rows for column, cell in zip(table.columns, row, strict=True)
    }
    assert names == [column.key for column in table.columns[1:]]
    assert (cell["dpo", "sft"].text, cell["sft", "dpo"].text) == ("beats", "loses")
    assert cell["dpo", "sft"].note.startswith("+1.64") and cell["sft", "dpo"].note.startswith("\u22121.64")
    assert cell["dpo", "ppo-max"].text == cell["ppo-max", "dpo"].text == "undecided"
    assert cell["dpo", "sft"].detail == cell["sft", "dpo"].detail == "p < .001"


def test_costs_with_and_without_what_is_shared(findings: Findings) -> None:
    table = tables.cost(findings, EN)
    keys = [column.key for column in table.columns]
    row = next(dict(zip(keys, row, strict=True)) for row in table.rows if row[0].text == "ppo-max")
    spent = findings.method("ppo-max").cost
    assert row["own"].order == spent.own == 8.7e14 and row["total"].order == spent.total == 13.1e14
    assert row["purpose.trials"].order is None and row["purpose.training"].text == "4.9×10¹⁴"
    assert row["tokens"].text == "1,554,500"


def test_a_judge_has_columns_for_what_was_asked_of_it(findings: Findings) -> None:
    gold, _, endpoint = (tables.judge(each, EN) for each in findings.judges)
    assert [column.key for column in gold.columns] == ["method", "outcomes", "rate", "length_controlled", "p"]
    assert [column.key for column in endpoint.columns][-3:] == ["failures", "flips", "first_preferred"]
    bar = gold.rows[0][1].bar
    assert bar is not None and sum(span.width for span in bar.spans) == pytest.approx(100)


def test_interval_bars_share_one_scale(findings: Findings) -> None:
    bars = [row[1].bar for row in tables.headline(findings, EN).rows]
    spans = [bar.spans[0] for bar in bars if bar is not None]
    assert max(span.start + span.width for span in spans) == pytest.approx(97)
    assert min(span.start for span in spans) == 3
    assert len({bar.line for bar in bars if bar is not None}) == 1


def test_numbers_as_texts() -> None:
    assert (number(-0.001, "+.2f"), number(-1.5, ".2f"), number(None, ".2f")) == ("+0.00", "\u22121.50", "–")
    assert (power(3.14e14), power(-2e-7), power(0), power(999)) == ("3.1×10¹⁴", "0", "0", "999")
    assert interval(Value(0.5, 0.4, 0.6), "+.1f") == "[0.4,\u00a00.6]" and interval(Value(0.5), ".1f") == ""
    assert [p_value(p) for p in (None, 1e-9, 0.0314, 0.99, 1.0)] == ["–", "< .001", ".031", ".990", "1"]
    assert [size(count) for count in (None, 12, 1_100_000_000)] == ["–", "12 B", "1.1 GB"]
    assert [duration(each) for each in (1.25, 61, 7260)] == ["1.2 s", "1 min 01 s", "2 h 01 min"]

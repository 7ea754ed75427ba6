"""The summary fits eighty columns in either language, without a number cut short."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from prefopt.compare.report.findings import Value
from prefopt.compare.report.terminal import print_summary, wrapped
from tests.helpers.comparison_findings import example_findings


def printed(findings: object, lang: str) -> list[str]:
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    print_summary(findings, console, lang)  # type: ignore[arg-type]
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_it_fits_and_nothing_is_cut(lang: str) -> None:
    lines = printed(example_findings(), lang)
    assert max(map(cell_len, lines)) <= 80
    whole = "\n".join(lines).replace("\u00a0", " ")
    assert "…" not in whole
    for shown in ("ppo-max", "2.11", "+1.78 [1.47, 2.09]", "89.2%", "11.40", "44.7", "1.3×10¹⁵", "rejection-sampling"):
        assert shown in whole
    rows = [line for line in lines if line.startswith(("dpo ", "simpo ", "best-of-8 "))]
    assert len({cell_len(line.rstrip()) for line in rows}) == 1


def test_a_name_of_the_library_is_whole_beside_wide_intervals() -> None:
    findings = example_findings()
    wide = Value(-12.04, -13.42, -10.65)
    methods = [replace(each, metrics={**each.metrics, "gain": wide}) for each in findings.methods]
    lines = printed(replace(findings, methods=methods), "en")
    assert max(map(cell_len, lines)) <= 80
    row = next(line for line in lines if line.startswith("rejection-sampling"))
    assert "[−13.42,\u00a0−10.65]" in row


def test_columns_stand_under_their_heads_in_chinese() -> None:
    lines = printed(example_findings(), "zh")
    head = next(line for line in lines if line.startswith("方法"))
    row = next(line for line in lines if line.startswith("dpo"))
    assert cell_len(head[: head.index("真实奖励") + 4]) == cell_len(row[: row.index("1.97") + 4])


def test_names_are_no_markup_and_give_way_when_long() -> None:
    findings = example_findings()
    name = "[red]dpo[/red] with a name of many words"
    lines = printed(replace(findings, methods=[replace(each, name=name) for each in findings.methods]), "en")
    assert max(map(cell_len, lines)) <= 80 and any(line.startswith("[red]") for line in lines)
    assert sum("[1.33,\u00a01.95]" in line for line in lines) >= 1


def test_lines_break_between_chinese_characters_and_between_words() -> None:
    assert wrapped("aa bb cc", 5) == "aa bb\ncc"
    assert wrapped("甲乙丙 name 丁戊。己", 8, "  ") == "甲乙丙\n  name 丁\n  戊。己"
    assert all(not line.startswith("。") for line in wrapped("甲乙丙丁。戊己", 8).splitlines())
    assert wrapped("[1.92,\u00a02.30] xx", 6) == "[1.92,\u00a02.30]\nxx"

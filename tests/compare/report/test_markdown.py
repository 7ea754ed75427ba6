"""Whoever reads the Markdown sees the texts that were written, and no heading, link, table or element made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from prefopt.compare.report.findings import Answer, Findings, Method, Sample, Value, Warning
from prefopt.compare.report.markdown import escaped, fenced, write_markdown
from prefopt.compare.report.page import Figures
from tests.helpers.comparison_findings import MARKDOWN, SCRIPT, example_findings

READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def tokens(folder: Path, findings: Findings, figures: Figures | None = None, lang: str = "en") -> list[Token]:
    return READER.parse(write_markdown(findings, folder, figures or {}, lang).read_text("utf-8"))


def flat(found: list[Token]) -> list[Token]:
    return [inner for token in found for inner in (token, *(token.children or ()))]


def shown(text: str) -> str:
    """As a reader of Markdown sees it, on one line."""
    return "".join(inner.content for inner in flat(READER.parse(text)) if inner.type in ("text", "text_special"))


@pytest.mark.parametrize("text", [SCRIPT, "*a* _b_ `c` ~~d~~ **e**", "a | b \\| c", "[x](y) ![z](w) &amp; # h", "<b>"])
def test_escaped_text_is_read_as_it_was_written(text: str) -> None:
    assert shown(f"x {escaped(text)}") == f"x {text}"
    cell = READER.parse(f"| a | b |\n| --- | --- |\n| {escaped(text)} | c |")
    assert [token.type for token in cell].count("td_open") == 2


def test_a_fence_is_longer_than_any_in_it() -> None:
    for text in (MARKDOWN, "``````\n</b>", "~~~", "", "    four"):
        (block,) = READER.parse(fenced(text))
        assert block.type == "fence" and block.content == f"{text}\n"


def test_no_element_and_no_link_but_our_own(tmp_path: Path) -> None:
    kinds = {token.type for token in flat(tokens(tmp_path, example_findings()))}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "code_block", "code_inline", "hr"}


def test_headings_are_the_sections_and_the_first_ten_prompts(tmp_path: Path) -> None:
    found = tokens(tmp_path, example_findings())
    headings = [found[place + 1].content for place, token in enumerate(found) if token.type == "heading_open"]
    assert headings[0] == "What 20 000 preference pairs are worth"
    assert headings.count("Responses") == 1
    assert [heading for heading in headings if heading.startswith("Prompt ")] == [f"Prompt {n}" for n in range(1, 11)]
    blocks = [token.content for token in found if token.type == "fence"]
    assert f"{MARKDOWN}\n" in blocks and f"{SCRIPT}\n" in blocks
    assert "20 more in report.html" in {token.content for token in found}


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_row_has_the_cells_of_its_head(tmp_path: Path, lang: str) -> None:
    found = [token.type for token in tokens(tmp_path, example_findings(), lang=lang)]
    tables = " ".join(found).split("table_open")[1:]
    assert len(tables) == 9
    for table in tables:
        heads, rows = table.count("th_open"), table.count("tr_open") - 1
        assert rows >= 5 and table.count("td_open") == heads * rows


def test_names_that_are_markdown(tmp_path: Path) -> None:
    evil = "| <b> [a](b) `c` *d*"
    findings = example_findings()
    methods = [replace(findings.methods[0], name=evil, settings={evil: evil}), *findings.methods[1:]]
    warning = Warning("cell_failed", {"method": evil, "seed": 1, "reason": f"{evil}\n\n# evil"}, serious=True)
    changed = replace(findings, title=evil, baseline=evil, methods=methods, pairings=(), samples=(), warnings=[warning])
    found = flat(tokens(tmp_path, changed))
    assert not {token.type for token in found} & {"html_inline", "html_block", "link_open", "code_inline", "em_open"}
    assert "# evil" in " ".join(token.content for token in found if token.type == "text")


def test_pictures_by_their_path_from_the_report(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    both = (folder / "figures" / "frontier.png", folder / "figures" / "frontier-dark.png")
    figures = {"frontier": both, "curves": (None, tmp_path / "my curves.png"), "grades": (None, None)}
    found = flat(tokens(folder, example_findings(), figures))
    html = "".join(token.content for token in found if token.type == "html_inline")
    assert 'srcset="figures/frontier-dark.png"' in html and 'src="figures/frontier.png"' in html
    assert [token.attrs["src"] for token in found if token.type == "image"] == ["../my%20curves.png"]


def test_the_smallest_report(tmp_path: Path) -> None:
    method = Method("sft", "sft", {}, [0], {"score": Value(0.5)}, example_findings().methods[0].cost)
    sample = Sample("k", [{"role": "critic", "content": "?"}], 0, [Answer("sft", " ", {}, finished=True)])
    findings = Findings("t", "score", "CHECKPOINTS", 0.95, "sft", [0], 1, 0, [method], samples=[sample])
    found = tokens(tmp_path, findings)
    assert "sft is the only method with a score, 0.50: there is nothing to compare it with." in found[4].content
    assert "(blank)" in [token.content for token in found] and "*critic*" in [token.content for token in found]

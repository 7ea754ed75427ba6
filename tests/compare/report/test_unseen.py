"""Whatever a name, a reason or a response holds, no form of the report acts unseen on a screen."""

from __future__ import annotations

import io
import json
import unicodedata
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from prefopt.compare.report.findings import Answer, Findings, Sample, Warning
from prefopt.compare.report.markdown import write_markdown
from prefopt.compare.report.page import write_page
from prefopt.compare.report.terminal import print_summary
from tests.helpers.comparison_findings import example_findings

EVIL = "\x1b]0;title\x07\x1b[31m中文\u202egpj.\u200b\u2066end\x9b"
SEEN = "\\x1b]0;title\\x07\\x1b[31m中文\\u202egpj.\\u200b\\u2066end\\x9b"


def evil_findings() -> Findings:
    findings = example_findings()
    answer = Answer(EVIL, f"{EVIL}\n\tnext", {}, finished=True)
    sample = Sample(EVIL, [{"role": EVIL, "content": EVIL}], 0, [answer])
    methods = [replace(findings.methods[0], name=EVIL, settings={EVIL: EVIL}), *findings.methods[1:]]
    return replace(
        findings,
        title=EVIL,
        baseline=EVIL,
        methods=methods,
        pairings=(),
        samples=[sample],
        failures=[replace(findings.failures[0], method=EVIL, reason=EVIL, details=EVIL)],
        warnings=[Warning("cell_failed", {"method": EVIL, "seed": 1, "reason": EVIL}, serious=True)],
        provenance={EVIL: {EVIL: EVIL}},
    )


def unseen(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c not in "\n\t"}


def test_markdown_page_and_json(tmp_path: Path) -> None:
    findings = evil_findings()
    markdown, page = (write(findings, tmp_path, {}).read_text("utf-8") for write in (write_markdown, write_page))
    assert not unseen(markdown) and not unseen(page)
    assert f"{SEEN}\n\tnext" in markdown and f"<h1>{SEEN}</h1>" in page.replace("<h1 ", "<h1>")
    stored = findings.write(tmp_path).read_text("utf-8")
    assert not unseen(stored) and json.loads(stored)["title"] == EVIL  # which a program reads as it was


def test_terminal() -> None:
    out = io.StringIO()
    print_summary(evil_findings(), Console(file=out, width=200))
    assert not unseen(out.getvalue()) and SEEN in out.getvalue()

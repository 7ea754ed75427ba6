"""Candidates to label, and what somebody says of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefopt.candidates import Candidate
from prefopt.labelling import LabelPair

SCRIPT = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
ODD = "bell \x07, nul \x00, turned \u202eback\u202c, isolated \u2067x\u2069"


def prompt(number: int) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": f"第{number}个问题：怎样烤面包？"},)


def candidate(number: int, k: int, text: str | None = None, **changes: Any) -> Candidate:
    """Two policies take turns; ids are known."""
    settings = {"finish_reason": "stop", "policy": f"v{k % 2}", "temperature": 0.5 + k / 10, "seed": 100 + k} | changes
    text = f"Answer {k} to {number}. 回答。" if text is None else text
    return Candidate(0, 0, k, prompt(number), text, ids=(1, number, k), tokenizer="tok", **settings)


def candidates(prompts: int = 20, responses: int = 3) -> list[Candidate]:
    return [candidate(number, k) for number in range(prompts) for k in range(responses)]


def side_of(pair: LabelPair, wanted: Candidate) -> str:
    """The side on which a candidate stands."""
    return "a" if pair.shown[0] == wanted else "b"


def page_file(annotator: str, labels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the page saves."""
    return {"format": "prefopt-labels", "version": 1, "annotator": annotator, "labels": list(labels)}

"""Annotators get the texts and nothing that tells where they come from; what a spreadsheet would run, it shows."""

from __future__ import annotations

import csv
import json
import re
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest

from prefopt.candidates import Candidate
from prefopt.labelling import LABELS, LabelPair, export_labels, import_labels, pairs_to_label
from prefopt.labelling.store import read_key
from tests.helpers.labels import ODD, candidate, candidates, prompt


@pytest.fixture
def pairs() -> list[LabelPair]:
    return pairs_to_label(candidates(10, 2), count=10, seed=1, repeats=0.3)


def page_data(page: Path) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.S)
    assert found
    return json.loads(found[1])


def test_what_annotators_get_says_nothing_of_the_candidates(tmp_path: Path, pairs: list[LabelPair]) -> None:
    page = export_labels(tmp_path, pairs)
    files = sorted(path.name for path in page.parent.iterdir())
    assert files == ["index.html", "label_studio.json", "label_studio.xml", "pairs.csv", "pairs.jsonl"]
    texts = {path.name: path.read_text("utf-8") for path in page.parent.iterdir()}
    secrets = ["swapped", '"repeat"', "policy", "v1", pairs[0].first.prompt_key, *(pair.pair for pair in pairs)]
    assert [(name, secret) for name, text in texts.items() for secret in secrets if secret in text] == []
    shown = [
        {"pair_id": pair.id, "prompt": pair.prompt[0]["content"], "a": pair.texts[0], "b": pair.texts[1]}
        for pair in pairs
    ]
    assert [json.loads(line) for line in texts["pairs.jsonl"].splitlines()] == shown
    assert json.loads(texts["label_studio.json"]) == shown
    assert [each["id"] for each in page_data(page)["pairs"]] == [pair.id for pair in pairs]  # type: ignore[index]


def test_the_key_has_all_of_it(tmp_path: Path, pairs: list[LabelPair]) -> None:
    export_labels(tmp_path, pairs)
    assert read_key(tmp_path) == pairs
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    export_labels(tmp_path, pairs)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_spreadsheet_runs_nothing_and_cuts_nothing_unsaid(tmp_path: Path) -> None:
    texts = ["=HYPERLINK(1)", "+1", "-1", "@x", "\tx", ODD, "很" * 40_000]
    given = [candidate(0, k, text) for k, text in enumerate(texts)]
    pairs = pairs_to_label(given, count=21, seed=0, repeats=0)
    page = export_labels(tmp_path, pairs)
    raw = page.with_name("pairs.csv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbfpair_id,")
    rows = list(csv.DictReader(raw.decode("utf-8-sig").splitlines(keepends=True)))
    cells = {row[side] for row in rows for side in "ab"}
    odd = "bell [U+0007], nul [U+0000], turned [U+202E]back[U+202C], isolated [U+2067]x[U+2069]"
    cut = "很" * 32_000 + "… [8000 more characters: read this one in index.html]"
    assert cells == {"'=HYPERLINK(1)", "'+1", "'-1", "'@x", "'\tx", odd, cut}
    assert max(map(len, cells)) < 32_767
    everything = {text for pair in page_data(page)["pairs"] for text in (pair["a"], pair["b"])}  # type: ignore
    assert everything == set(texts)


def test_prompts_of_several_turns_and_tools(tmp_path: Path) -> None:
    turns = (
        {"role": "system", "content": "简短。", "tools": '[{"name": "look_up"}]'},
        {"role": "user", "content": "问"},
        {"role": "assistant", "content": "", "tool_calls": '[{"function": {"name": "look_up"}}]'},
        {"role": "tool", "content": "42"},
    )
    given = [Candidate(0, 0, k, turns, f"回答{k}", "stop", "v0", 1.0, 0) for k in (0, 1)]
    page = export_labels(tmp_path, pairs_to_label(given, count=1, seed=0, repeats=0))
    line = json.loads(page.with_name("pairs.jsonl").read_text("utf-8"))
    assert line["prompt"] == (
        '[system]\n简短。\n[{"name": "look_up"}]\n\n[user]\n问\n\n[assistant]\n\n[{"function": {"name": "look_up"}}]'
        "\n\n[tool]\n42"
    )
    assert page_data(page)["pairs"][0]["prompt"] == [dict(turn) for turn in turns]  # type: ignore[index]


def test_label_studio_offers_what_can_be_imported(tmp_path: Path, pairs: list[LabelPair]) -> None:
    interface = ElementTree.fromstring(export_labels(tmp_path, pairs).with_name("label_studio.xml").read_text("utf-8"))
    assert [choice.get("value") for choice in interface.iter("Choice")] == list(LABELS)
    shown = {text.get("value") for text in interface.iter("Text")}
    assert shown == {"$prompt", "$a", "$b"}


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_page_is_one_file_whose_policy_lets_it_fetch_nothing(
    tmp_path: Path, pairs: list[LabelPair], lang: str
) -> None:
    text = unescape(export_labels(tmp_path, pairs, lang=lang).read_text("utf-8"))
    assert "default-src 'none'" in text and "src=" not in text and "href=" not in text
    assert text.count("<script") == 2


def test_what_cannot_be_is_refused(tmp_path: Path, pairs: list[LabelPair]) -> None:
    with pytest.raises(ValueError, match="lang='fr': there are texts in en, zh"):
        export_labels(tmp_path, pairs, lang="fr")
    with pytest.raises(ValueError, match="no pairs to label: see pairs_to_label"):
        export_labels(tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_nothing_is_labelled_yet(tmp_path: Path, pairs: list[LabelPair]) -> None:
    export_labels(tmp_path, pairs)
    labels = import_labels(tmp_path)
    assert labels.rows == [] and labels.report.lines()[1] == "0 of 10 pairs are labelled, 0 preferences"
    assert prompt(0)[0]["content"] in (tmp_path / "annotate" / "pairs.csv").read_text("utf-8")

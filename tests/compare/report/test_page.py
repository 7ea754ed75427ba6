"""The page is one file that needs nothing else, and nothing that a model or user wrote is markup in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from prefopt.compare.report import page as report
from prefopt.compare.report.findings import Answer, Findings, Method, Sample, Value, Warning
from prefopt.compare.report.page import Figures, in_script, write_page
from prefopt.utils.visible import visible_parts
from tests.helpers.comparison_findings import SCRIPT, example_findings

# The smallest PNG: one pixel.
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Elements(HTMLParser):
    """Every element with its attributes, and the text of each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def page(folder: Path, findings: Findings, figures: Figures | None = None, lang: str = "en") -> str:
    return write_page(findings, folder, figures or {}, lang).read_text("utf-8")


@pytest.fixture
def pixel(tmp_path: Path) -> Path:
    path = tmp_path / "pixel.png"
    path.write_bytes(PIXEL)
    return path


def test_one_file_that_refers_to_nothing_outside(tmp_path: Path, pixel: Path) -> None:
    out = tmp_path / "out"
    text = page(out, example_findings(), {"frontier": (pixel, pixel)})
    assert [path.name for path in out.iterdir()] == ["report.html"]
    elements = Elements(text)
    for tag, attributes in elements.found:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            given = attributes.get(name) or "#"
            assert given.startswith(("#", "data:image/png;base64,")), (tag, given)
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
    assert "@import" not in text and "url(" not in text


def test_the_policy_lets_only_this_style_and_script_run(tmp_path: Path) -> None:
    elements = Elements(page(tmp_path, example_findings()))
    policy = next(each["content"] for each in elements.of("meta") if each.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:; ") and "unsafe" not in policy
    scripts = [each for each in elements.of("script") if each.get("type") != "application/json"]
    assert len(scripts) == 1 and len(elements.of("style")) == 1
    run = next(text for text in elements.texts["script"] if not text.startswith("{"))
    for directive, content in (("script-src", run), ("style-src", elements.texts["style"][0])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert "innerHTML" not in run and "insertAdjacent" not in run and "eval(" not in run


def test_samples_survive_the_way_into_the_page(tmp_path: Path) -> None:
    findings = example_findings()
    text = page(tmp_path, findings)
    data = next(content for content in Elements(text).texts["script"] if content.startswith("{"))
    assert json.loads(data)["samples"] == json.loads(
        json.dumps([asdict(visible_parts(sample)) for sample in findings.samples])
    )
    assert SCRIPT not in text and "<img src=x" not in text
    assert not set("<>&\u2028\u2029") & set(in_script({"<!--": "</script>&\u2028\u2029"}))


def test_names_and_reasons_are_escaped(tmp_path: Path) -> None:
    evil = "<i>\"'&</i>"
    findings = example_findings()
    methods = [replace(findings.methods[0], name=evil, settings={evil: evil}), *findings.methods[1:]]
    changed = replace(
        findings,
        title=evil,
        baseline=evil,
        methods=methods,
        pairings=(),
        failures=[replace(findings.failures[0], method=evil, reason=evil, details=evil)],
        warnings=[Warning("cell_failed", {"method": evil, "seed": 1, "reason": evil}, serious=True)],
        provenance={evil: {evil: evil}},
    )
    text = page(tmp_path, changed)
    assert "<i>" not in text and text.count("&lt;i&gt;") > 12
    assert Elements(text).texts["h1"] == [evil]


def test_figures_light_dark_and_alone(tmp_path: Path, pixel: Path) -> None:
    dark = tmp_path / "dark.png"
    dark.write_bytes(PIXEL + b"dark")
    figures = {"curves": (pixel, None), "frontier": (pixel, dark), "grades": (None, None), "forest": (pixel, dark)}
    elements = Elements(page(tmp_path / "out", example_findings(), figures))
    images = elements.of("img")
    assert [image["class"] for image in images] == ["light", "dark", ""]
    assert all(len(image["alt"] or "") > 30 for image in images)
    uri = f"data:image/png;base64,{base64.b64encode(PIXEL + b'dark').decode()}"
    assert images[1]["src"] == uri and images[0]["src"] == images[2]["src"] != uri
    with pytest.raises(KeyError, match=r"figure\.unheard"):
        page(tmp_path / "out", example_findings(), {"unheard": (pixel, None)})


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_section_is_there_in_the_contents_and_by_its_heading(tmp_path: Path, pixel: Path, lang: str) -> None:
    elements = Elements(page(tmp_path / "out", example_findings(), {"cost": (pixel, None)}, lang))
    listed = [each["href"] for each in elements.of("a") if each.get("class") != "skip"]
    sections = [f"#{each['id']}" for each in elements.of("section")]
    assert listed == sections and len(sections) == 15
    assert len(elements.texts["h2"]) == len(sections)
    assert elements.of("html") == [{"lang": {"en": "en", "zh": "zh-Hans"}[lang]}]


def test_tables_are_told_to_who_hears_them(tmp_path: Path) -> None:
    elements = Elements(page(tmp_path, example_findings()))
    assert len(elements.of("caption")) == len(elements.of("table")) == 9
    assert {each.get("scope") for each in elements.of("th")} == {"col", "row"}


def looks() -> dict[str, list[dict[str, str]]]:
    """Colours by name, of the light blocks and of the dark ones."""
    style = Path(report.__file__).with_name("page.css").read_text("utf-8")
    blocks = re.findall(r"color-scheme: (light|dark);(.*?)\}", style, re.DOTALL)
    found: dict[str, list[dict[str, str]]] = {"light": [], "dark": []}
    for scheme, block in blocks:
        found[scheme].append(dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block)))
    return found


def luminance(colour: str) -> float:
    """Relative, by WCAG 2."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_dark_is_the_same_with_and_without_a_script() -> None:
    one, other = looks()["dark"]
    assert one == other and set(one) == set(looks()["light"][0])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(scheme: str) -> None:
    """At 4.5 to 1, WCAG's AA."""
    colours = looks()[scheme][0]
    texts = [
        (ink, ground) for ink in ("ink", "soft", "accent", "worse-ink") for ground in ("ground", "raised", "marked")
    ]
    texts += [("ink", "better"), ("accent", "better"), ("ink", "worse"), ("worse-ink", "worse")]
    for ink, ground in texts:
        low, high = sorted((luminance(colours[ink]), luminance(colours[ground])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)


def test_the_smallest_report(tmp_path: Path) -> None:
    """One method, without an interval, and nothing else."""
    method = Method("sft", "sft", {}, [0], {"score": Value(0.5)}, example_findings().methods[0].cost)
    findings = Findings("t", "score", "CHECKPOINTS", 0.95, "sft", [0], 1, 0, [method])
    elements = Elements(page(tmp_path, findings))
    ids = {each["id"] for each in elements.of("section")}
    assert ids == {"verdict", "headline", "cost", "metrics", "settings", "notes", "provenance", "glossary"}
    assert not elements.of("rect")
    page(tmp_path, replace(findings, methods=[]))


def test_half_a_surrogate_pair_is_shown_as_unknown(tmp_path: Path) -> None:
    sample = Sample("k", [{"role": "user", "content": "\ud83d"}], 0, [Answer("sft", "a \ude00 b", {}, True)])
    text = page(tmp_path, replace(example_findings(), samples=[sample], title="\U0001f600 \ud83d"))
    assert "a \ufffd b" in text and "<h1>\U0001f600 \ufffd</h1>" in text


def test_a_page_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    before = page(tmp_path, example_findings())
    with pytest.raises(KeyError, match="no text 'unheard'"):
        page(tmp_path, replace(example_findings(), warnings=[Warning("unheard")]))
    assert (tmp_path / "report.html").read_text("utf-8") == before
    assert re.findall("staging", " ".join(path.name for path in tmp_path.iterdir())) == []

"""The page in a browser: twenty pairs by keyboard with a break, hostile texts, a telephone, and the file it saves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from prefopt.labelling import LabelPair, export_labels, import_labels, pairs_to_label
from tests.helpers.browser import Watched, chromium, needs_chromium
from tests.helpers.labels import ODD, SCRIPT, candidate, candidates

pytestmark = needs_chromium

KEYS = {
    "1": ("a", "significantly"),
    "2": ("a", "better"),
    "3": ("a", "slightly"),
    "4": ("a", "negligibly"),
    "q": ("b", "significantly"),
    "w": ("b", "better"),
    "e": ("b", "slightly"),
    "r": ("b", "negligibly"),
    "t": ("tie", None),
    "b": ("both_bad", None),
    "s": ("skip", None),
}
PRESSED = [*KEYS, *"12qwtes41"]
"""Twenty, and every key among them."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    yield context
    context.close()


@pytest.fixture
def pairs() -> list[LabelPair]:
    return pairs_to_label(candidates(20, 2), count=18, seed=4, repeats=0.12)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    given = [candidate(0, 0, f"{SCRIPT}\n\n{'很长' * 400}{'x' * 900}"), candidate(0, 1, ODD)]
    return export_labels(tmp_path / "hostile", pairs_to_label(given, count=1, seed=0, repeats=0))


def opened(context: BrowserContext, path: Path) -> Watched:
    watched = Watched(context.new_page())
    watched.page.goto(path.as_uri())
    return watched


def enter(page: Page, name: str) -> None:
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")


def press(page: Page, keys: list[str]) -> None:
    for key in keys:
        page.keyboard.press(key)


def saved(page: Page, path: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name="Save to a file").click()
    download.value.save_as(path)
    return path


def test_twenty_pairs_by_keyboard_with_a_break_in_the_middle(
    context: BrowserContext, tmp_path: Path, pairs: list[LabelPair]
) -> None:
    path = export_labels(tmp_path / "labels", pairs)
    assert len(pairs) == 20 == len(PRESSED)
    first = opened(context, path)
    enter(first.page, "李 Wei")
    press(first.page, PRESSED[:7])
    first.page.keyboard.press("n")
    first.page.keyboard.type("s t 1")
    first.page.keyboard.press("Escape")
    press(first.page, PRESSED[7:9])
    half = saved(first.page, tmp_path / "half.json")
    first.page.close()

    again = opened(context, path)
    assert again.page.locator(".count").inner_text() == "9 of 20 labelled"
    assert again.page.locator(".where").inner_text() == "10 of 20"
    press(again.page, PRESSED[9:])
    assert "All pairs are labelled" in again.page.get_by_role("status").inner_text()
    whole = saved(again.page, tmp_path / "whole.json")
    assert first.complaints == again.complaints == []
    assert [url for url in again.requests if not url.startswith("blob:")] == [again.page.url]

    labels = json.loads(whole.read_text("utf-8"))["labels"]
    said = [(label["id"], (label["choice"], label["grade"])) for label in labels]
    assert said == [(pair.id, KEYS[key]) for pair, key in zip(pairs, PRESSED, strict=True)]
    assert [label["note"] for label in labels if label["note"]] == ["s t 1"] and labels[7]["note"]

    part = import_labels(tmp_path / "labels", [half]).report
    assert (part.added.new, part.added.known) == (9, 0)
    all_of_it = import_labels(tmp_path / "labels", [half, whole]).report
    assert (all_of_it.added.new, all_of_it.added.known, all_of_it.added.changed) == (11, 18, 0)
    assert all_of_it.annotators["李 Wei"].judgments == 20


def test_going_on_in_another_browser_with_the_saved_file(
    browser: Browser, context: BrowserContext, tmp_path: Path, pairs: list[LabelPair]
) -> None:
    path = export_labels(tmp_path / "labels", pairs)
    here = opened(context, path)
    enter(here.page, "Bo")
    press(here.page, ["1", "q", "t"])
    file = saved(here.page, tmp_path / "bo.json")
    elsewhere = browser.new_context()
    there = opened(elsewhere, path).page
    there.locator("input[type=file]").set_input_files(file)
    there.get_by_text("3 labels taken from the file; 0 are of other pairs").wait_for()
    assert there.get_by_label("Your name").input_value() == "Bo"
    assert there.locator(".where").inner_text() == "4 of 20"
    enter(there, "Al")
    assert there.locator(".count").inner_text() == "0 of 20 labelled"
    there.locator("input[type=file]").set_input_files(file)
    there.get_by_text("The file is by Bo, and you are Al").wait_for()
    (tmp_path / "other.json").write_text("[]")
    there.locator("input[type=file]").set_input_files(tmp_path / "other.json")
    there.get_by_text("other.json is not a file that this page saved").wait_for()
    enter(there, "Bo")
    assert there.locator(".count").inner_text() == "3 of 20 labelled"
    elsewhere.close()


def test_a_choice_is_shown_and_can_be_changed(context: BrowserContext, tmp_path: Path, pairs: list[LabelPair]) -> None:
    page = opened(context, export_labels(tmp_path, pairs)).page
    assert page.locator("button[data-choice]").first.is_disabled()
    enter(page, "Bo")
    press(page, ["2", "ArrowLeft"])
    pressed = page.locator("button[aria-pressed=true]")
    assert pressed.all_inner_texts() == ["2A better"]
    assert page.locator(".answer.chosen").get_attribute("data-side") == "a"
    page.get_by_role("button", name="B slightly better").click()
    page.keyboard.press("ArrowLeft")
    assert pressed.all_inner_texts() == ["eB slightly better"]
    assert page.locator(".count").inner_text() == "1 of 20 labelled"


def test_two_windows_do_not_overwrite_each_other(
    context: BrowserContext, tmp_path: Path, pairs: list[LabelPair]
) -> None:
    path = export_labels(tmp_path, pairs)
    one = opened(context, path).page
    enter(one, "Bo")
    other = opened(context, path).page
    press(one, ["1", "1"])
    press(other, ["ArrowRight", "ArrowRight", "q"])
    other.locator(".count", has_text="3 of 20").wait_for()
    one.locator(".count", has_text="3 of 20").wait_for()
    assert len(json.loads(saved(one, tmp_path / "one.json").read_text("utf-8"))["labels"]) == 3


def test_what_models_wrote_is_text(context: BrowserContext, hostile: Path) -> None:
    watched = opened(context, hostile)
    said = watched.page.locator(".answer .said")
    texts = {each for each in said.all_inner_texts()}
    assert any(text.startswith(SCRIPT) for text in texts)
    odd = next(text for text in texts if text.startswith("bell"))
    assert odd == "bell U+0007, nul U+0000, turned U+202EbackU+202C, isolated U+2067xU+2069"
    assert watched.page.locator(".said script, .said img").count() == 0
    watched.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=alert(1)>')")
    watched.page.wait_for_timeout(100)
    assert "an alert came up" not in watched.complaints
    assert all("Content Security Policy" in complaint for complaint in watched.complaints)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_telephone_scrolls_only_down(context: BrowserContext, hostile: Path, lang: str) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(hostile.as_uri())
    if lang == "zh":
        page.get_by_role("button", name="中文").click()
    page.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = [each.bounding_box() for each in page.locator(".answer").all()]
    assert all(box and box["width"] > 340 for box in boxes)
    for button in page.locator("button[data-choice]").all():
        assert button.evaluate("it => it.scrollWidth <= it.clientWidth")


def test_chinese(context: BrowserContext, tmp_path: Path, pairs: list[LabelPair]) -> None:
    watched = opened(context, export_labels(tmp_path, pairs, lang="zh"))
    page = watched.page
    assert page.title() == "哪个回答更好？" and page.locator("html").get_attribute("lang") == "zh-Hans"
    page.get_by_label("您的姓名").fill("小李")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="B 明显更好").click()
    assert page.locator(".count").inner_text() == "已标注 1 / 20"
    page.get_by_role("button", name="English").click()
    assert page.locator(".count").inner_text() == "1 of 20 labelled"
    page.reload()
    assert page.title() == "Which answer is better?" and watched.complaints == []


def test_a_browser_that_keeps_nothing_says_so(context: BrowserContext, tmp_path: Path, pairs: list[LabelPair]) -> None:
    context.add_init_script("Storage.prototype.setItem = () => { throw new Error('full'); };")
    page = opened(context, export_labels(tmp_path, pairs)).page
    enter(page, "Bo")
    press(page, ["1", "q"])
    assert "This browser keeps nothing of this page" in page.get_by_role("alert").inner_text()
    assert len(json.loads(saved(page, tmp_path / "bo.json").read_text("utf-8"))["labels"]) == 2

"""What a reader's browser makes of the page: nothing runs that we did not write, and all of it can be used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext

from prefopt.compare.report.page import write_page
from tests.helpers.browser import Watched, chromium, needs_chromium
from tests.helpers.comparison_findings import ENDING, MARKDOWN, ODD, SCRIPT, example_findings

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """With wide pictures, which must not make a narrow page scroll."""
    folder = tmp_path_factory.mktemp("reports")
    figures = {}
    for name in ("frontier", "curves"):
        light, dark = folder / f"{name}.png", folder / f"{name}-dark.png"
        Image.new("RGB", (1400, 900), "white").save(light)
        Image.new("RGB", (1400, 900), "black").save(dark)
        figures[name] = (light, dark)
    return {lang: write_page(example_findings(), folder / lang, figures, lang) for lang in ("en", "zh")}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield context
    context.close()


@pytest.fixture
def opened(context: BrowserContext, reports: dict[str, Path]) -> Watched:
    watched = Watched(context.new_page())
    watched.page.goto(reports["en"].as_uri())
    return watched


def test_nothing_is_fetched_and_nothing_complains(opened: Watched) -> None:
    while opened.page.locator("button.forth").is_enabled():
        opened.page.locator("button.forth").click()
    assert opened.complaints == []
    fetched = [url for url in opened.requests if not url.startswith("data:")]
    assert fetched == [opened.page.url]


def test_the_policy_stops_what_is_slipped_in(opened: Watched) -> None:
    """Even an element that got into the page by a mistake of ours would do nothing."""
    opened.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=alert(1)>')")
    opened.page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'alert(2)'}))")
    opened.page.wait_for_timeout(200)
    assert "an alert came up" not in opened.complaints
    assert any("Content Security Policy" in complaint for complaint in opened.complaints)


def written_out(text: str) -> str:
    """Characters that nobody sees, as Python writes them."""
    return text.translate({ord(each): repr(each)[1:-1] for each in "\u2028\u2029\u202e\u202c\x00"})


@pytest.mark.parametrize(
    ("place", "method", "text"), [(0, "simpo", SCRIPT), (2, "simpo", MARKDOWN), (4, "simpo", ENDING)]
)
def test_what_models_wrote_is_text(opened: Watched, place: int, method: str, text: str) -> None:
    for _ in range(place):
        opened.page.locator("button.forth").click()
    card = opened.page.locator(".answer", has=opened.page.get_by_role("heading", name=method, exact=True))
    assert card.locator(".told").text_content() == written_out(text)
    assert card.locator(".told *").count() == 0
    assert opened.complaints == []


def test_odd_characters_do_not_break_the_page(opened: Watched) -> None:
    for _ in range(4):
        opened.page.locator("button.forth").click()
    assert opened.page.locator(".answer .told", has_text="right to left").text_content() == written_out(ODD)


def test_tables_sort_by_number_and_by_name(opened: Watched) -> None:
    def heads(name: str) -> None:
        opened.page.locator("#headline thead button", has_text=name).click()

    def sorted_by() -> list[str | None]:
        return [each.get_attribute("aria-sort") for each in opened.page.locator("#headline thead th").all()]

    assert opened.column("#headline", 1)[0] == "ppo-max"
    heads("length")
    assert opened.column("#headline", 6) == ["44.7", "31.9", "28.3", "21.0", "20.2", "17.3"]
    assert sorted_by() == [None] * 5 + ["descending"] + [None] * 2
    heads("length")
    assert opened.column("#headline", 6) == ["17.3", "20.2", "21.0", "28.3", "31.9", "44.7"]
    heads("KL")
    assert opened.column("#headline", 5) == ["11.40", "6.21", "4.56", "2.13", "1.20", "0.00"]
    heads("FLOPs")
    assert opened.column("#headline", 8)[-3:] == ["8.7×10¹⁴", "7.3×10¹⁴", "2.6×10¹⁴"]
    heads("method")
    assert opened.column("#headline", 1) == ["best-of-8", "dpo", "ppo-max", "rejection-sampling", "sft", "simpo"]
    for _ in range(2):
        heads("accuracy")
        assert opened.column("#headline", 7)[-2:] == ["–", "–"]
    assert opened.column("#headline", 7)[0] == "74.2%"


def test_samples_are_filtered_sorted_and_paged(opened: Watched) -> None:
    page, findings = opened.page, example_findings()
    place = page.locator(".pager .place")
    control = {name: page.get_by_label(name, exact=True) for name in ("Look at", "Outcome", "Ending", "Order")}
    search = page.get_by_label("Search prompts and responses")
    assert place.inner_text() == "1 of 30 prompts"

    search.fill("热毛巾")
    assert place.inner_text() == "1 of 5 prompts found among 30"
    search.fill("no such words")
    assert "No prompt is left" in place.inner_text() and page.locator(".answer").count() == 0
    search.fill("")

    control["Look at"].select_option("ppo-max")
    control["Ending"].select_option("truncated")
    assert place.inner_text() == "1 of 10 prompts found among 30"
    control["Ending"].select_option("any")
    control["Outcome"].select_option("lost")
    lost = [sample for sample in findings.samples if sample.answers[4].outcome == 0]
    assert place.inner_text() == f"1 of {len(lost)} prompts found among 30" and len(lost) > 1
    assert page.locator(".answer.lost h3", has_text="ppo-max").count() == 1

    control["Order"].select_option("gold reward over the baseline, highest first")
    gains = [sample.answers[4].values["gold"] - sample.answers[0].values["gold"] for sample in lost]
    best = lost[gains.index(max(gains))]
    assert page.locator(".prompt .told").last.inner_text() == best.prompt[-1]["content"]

    page.get_by_role("checkbox", name="simpo").uncheck()
    assert page.locator(".answer h3").all_inner_texts() == ["sft", "dpo", "rejection-sampling", "ppo-max", "best-of-8"]


def test_arrow_keys_turn_the_page_but_not_in_the_search(opened: Watched) -> None:
    place = opened.page.locator(".pager .place")
    opened.page.locator("#browser").focus()
    for _ in range(2):
        opened.page.keyboard.press("ArrowRight")
    opened.page.keyboard.press("ArrowLeft")
    assert place.inner_text() == "2 of 30 prompts"
    opened.page.get_by_label("Search prompts and responses").focus()
    opened.page.keyboard.press("ArrowRight")
    assert place.inner_text() == "2 of 30 prompts"


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_telephone_scrolls_only_down(context: BrowserContext, reports: dict[str, Path], lang: str) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(reports[lang].as_uri())
    for details in page.locator("details").all():
        details.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wide = page.locator("#metrics .wide")
    assert wide.evaluate("box => box.scrollWidth > box.clientWidth")


def test_dark_by_preference_and_by_hand(opened: Watched) -> None:
    def ground() -> str:
        return opened.page.evaluate("getComputedStyle(document.body).backgroundColor")

    def pictures() -> list[str | None]:
        images = opened.page.locator("figure img").all()
        return [image.get_attribute("class") for image in images if image.is_visible()]

    light = ground()
    assert pictures() == ["light", "light"]
    opened.page.get_by_role("button", name="Light or dark").click()
    dark = ground()
    assert dark != light and pictures() == ["dark", "dark"]
    opened.page.get_by_role("button", name="Light or dark").click()
    assert ground() == light
    opened.page.reload()
    opened.page.emulate_media(color_scheme="dark")
    assert ground() == dark and pictures() == ["dark", "dark"]


def test_chinese(context: BrowserContext, reports: dict[str, Path]) -> None:
    watched = Watched(context.new_page())
    watched.page.goto(reports["zh"].as_uri())
    headings = watched.page.locator("h2").all_inner_texts()
    assert headings[:4] == ["结论", "请先阅读", "各方法一览", "两两比较"]
    assert watched.page.get_by_text("第 1 条，共 30 条提示").is_visible()
    assert "ppo-max 优于 best-of-8、rejection-sampling 和 sft。" in watched.page.locator("#verdict").inner_text()
    assert watched.complaints == []


def test_without_scripts_all_but_the_samples_is_there(browser: Browser, reports: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(reports["en"].as_uri())
    assert page.get_by_text("The responses are shown by a script in this file").is_visible()
    assert page.locator("#headline tbody tr").count() == 6
    assert not page.get_by_role("button", name="Light or dark").is_visible()
    context.close()


def test_a_figure_is_enlarged_and_made_small_again(opened: Watched) -> None:
    figure = opened.page.locator("#figure-frontier")
    button = figure.get_by_role("button", name="Enlarge: Reward against KL")

    def width() -> float:
        box = figure.bounding_box()
        assert box is not None
        return box["width"]

    small = width()
    button.click()
    assert width() > 1.8 * small and button.get_attribute("aria-pressed") == "true"
    button.click()
    assert width() == small


def test_the_baseline_is_one_line_however_long_the_numbers(opened: Watched) -> None:
    number = opened.page.locator("#headline .barred > span").first
    number.evaluate("cell => cell.append(' [−1234.56, −1034.56]')")
    lines = opened.page.locator("#headline .bar .line").all()
    boxes = [box for each in lines if (box := each.bounding_box())]
    assert len(boxes) == 6 and len({round(box["x"], 1) for box in boxes}) == 1


def test_printed_without_what_paper_cannot_do(opened: Watched) -> None:
    opened.page.get_by_role("button", name="Light or dark").click()
    opened.page.emulate_media(media="print", color_scheme="dark")
    for part in ("nav", ".filters", "#theme"):
        assert not opened.page.locator(part).first.is_visible()
    assert opened.page.locator("#headline table").is_visible()
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(252, 252, 250)"
    assert [each.is_visible() for each in opened.page.locator("#figure-curves img").all()] == [True, False]

from __future__ import annotations

import logging
import math
import sys
import warnings
from dataclasses import replace
from functools import partial
from itertools import combinations, pairwise, product
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import pytest

from prefopt.compare import Verdict
from prefopt.compare.report import figures, fonts
from prefopt.compare.report.figures import FIGURES, Look, Wording, axes, style
from prefopt.compare.report.figures.labels import LABELS
from prefopt.compare.report.figures.style import DARK, LIGHT
from prefopt.compare.report.figures.training import averages
from prefopt.compare.report.findings import (
    BestOfCurve,
    Cost,
    Findings,
    FrontierPoint,
    GradeAccuracy,
    Histogram,
    LengthPoints,
    Method,
    Moment,
    Pairing,
    Value,
)
from prefopt.compare.report.metrics import METRICS
from tests.helpers.comparison_findings import GOLD, KL, NAMES, SEEDS, TRAINED, example_findings

pytest.importorskip("matplotlib")
EXAMPLE = example_findings()
FEW = replace(EXAMPLE, curves=(), histograms=(), best_of=(), lengths=(), grades=())
LONG = ("dpo with a rather long name, beta 0.05", "dpo with a rather long name, beta 0.50")
DPI = 50
"""Few pixels are drawn fast."""
write_figures = partial(figures.write_figures, dpi=DPI)
ODD = ("sft", "dpo", "$a$ \\frac{_x}", "_hidden", *LONG, "直接偏好优化（β=0.1）", "ppo\nmax", "a", "b", "c", "d")


def odd_findings() -> Findings:
    """Twelve methods with names that break things, one seed, no interval, no gold reward, no error, no compute."""
    cost = Cost({"training": 0.0}, {}, {}, 1.0, 1.0, 1)
    metrics = [{"score": Value(float(n)), "kl": Value(n / 2), "gain": Value(n - 3.0)} for n in range(len(ODD))]
    methods = [Method(name, "dpo", {}, [0], metric, cost) for name, metric in zip(ODD, metrics, strict=True)]
    ks, climb = [1, 2, 3, 4], [Value(0.0), Value(1.0), Value(1.5), Value(2.0)]
    return Findings(
        **{"title": "odd", "primary": "score", "claim": "CHECKPOINTS", "level": 0.995, "baseline": "sft"},
        **{"seeds": [0], "prompts": 1, "pairs": 3, "methods": methods},
        pairings=[Pairing(a, b, Verdict.ALIKE, Value(-11.25), 1.0) for a, b in combinations(ODD, 2)],
        frontier=[FrontierPoint(each.name, each.metrics["score"], each.metrics["kl"]) for each in methods],
        curves=[Moment(name, 0, n, n, n / 2, 0.0, {"score": n, "kl": -n / 9}, {}) for name in ODD for n in range(3)],
        histograms=[Histogram(each, [0, 1, 2], dict.fromkeys(ODD, [0.5, 0.5])) for each in ("score", "perplexity")],
        best_of=[BestOfCurve(name, ks, climb, climb, [0.0, 1.0, 1.5, 2.0]) for name in ODD],
        grades=[GradeAccuracy("", 3, {name: Value(0.7) for name in (*ODD, "reward model")})],
        lengths=[LengthPoints(name, [1.0, 2.0], [0.0, 1.0], None) for name in ODD],
    )


def look_of(findings: Findings, lang: str = "en") -> Look:
    return Look.of(findings, Wording.of(findings, lang), LIGHT, dpi=DPI)


def drawn(name: str, findings: Findings = EXAMPLE, lang: str = "en") -> Any:
    look = look_of(findings, lang)
    with look.applied():
        return FIGURES[name](findings, look)


def lines_with(there: Any, **wanted: Any) -> list[Any]:
    return [
        line for line in there.lines if all(getattr(line, f"get_{key}")() == value for key, value in wanted.items())
    ]


def dots(there: Any) -> list[tuple[float, float]]:
    """Points with intervals, in the order of drawing."""
    return [tuple(np.concatenate(each.lines[0].get_data()).tolist()) for each in there.containers]


def written(findings: Findings, folder: Path, lang: str = "en") -> dict[str, tuple[bytes, bytes]]:
    files = write_figures(findings, folder, lang)
    return {name: (light.read_bytes(), dark.read_bytes()) for name, (light, dark) in files.items()}


def test_every_figure_light_and_dark(tmp_path: Path) -> None:
    first = written(EXAMPLE, tmp_path)
    assert list(first) == list(FIGURES)
    assert all(light.startswith(b"\x89PNG") and light != dark for light, dark in first.values())
    expected = {f"{name}{suffix}.png" for name in FIGURES for suffix in ("", "-dark")}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_the_same_bytes_again(tmp_path: Path) -> None:
    assert written(FEW, tmp_path / "first") == written(FEW, tmp_path / "second")


def test_no_figure_without_numbers(tmp_path: Path) -> None:
    empty = Findings("t", "gold", "METHODS", 0.95, "sft", [0], 0, 0, methods=[])
    assert write_figures(empty, tmp_path, "en") == {}
    assert list(tmp_path.iterdir()) == []


def test_only_what_there_are_numbers_for(tmp_path: Path) -> None:
    assert set(write_figures(FEW, tmp_path)) == {"forest", "matrix", "frontier", "cost"}


def test_the_users_own_settings_change_nothing(tmp_path: Path) -> None:
    import matplotlib

    plain = written(FEW, tmp_path / "plain")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 30, "lines.linewidth": 9}):
        assert written(FEW, tmp_path / "own") == plain


def test_without_matplotlib_one_line_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert write_figures(EXAMPLE, tmp_path) == {}
    assert [record.message for record in caplog.records if "prefopt[report]" in record.message] == [
        "no figure is plotted, since matplotlib is missing: pip install 'prefopt[report]'"
    ]


def test_an_unknown_language_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lang='fr'.*en, zh"):
        write_figures(EXAMPLE, tmp_path, "fr")


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("which", ["en", "zh", "odd"])
def test_nothing_is_cut_off_and_no_legend_lies_on_axes(name: str, which: str) -> None:
    findings, lang = (odd_findings(), "en") if which == "odd" else (EXAMPLE, which)
    look = look_of(findings, lang)
    with look.applied(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        figure = FIGURES[name](findings, look)
        if figure is None:
            assert (which, name) == ("odd", "cost")
            return
        figure.draw_without_rendering()
        legends = [legend.get_window_extent() for legend in figure.legends]
        inside = [axes.get_tightbbox() for axes in figure.axes if axes.axison]
        for box in (*legends, *inside):
            assert box.x0 >= -1 and box.y0 >= -1
            assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert not [pair for pair in combinations(legends, 2) if _overlap(*pair)]
        assert not [pair for pair in product(legends, inside) if _overlap(*pair)]
        assert not [pair for pair in combinations(inside, 2) if _overlap(*pair)]


def _overlap(a: Any, b: Any) -> bool:
    return bool(min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("findings", [EXAMPLE, odd_findings()], ids=["example", "odd"])
def test_ticks_of_an_axis_do_not_touch(name: str, findings: Findings) -> None:
    look = look_of(findings)
    with look.applied():
        figure = FIGURES[name](findings, look)
        if name == "matrix" or figure is None:  # the matrix has names there, which are at an angle
            return
        figure.draw_without_rendering()
        for there in figure.axes:
            low, high = there.get_xlim()
            # Panels above others have ticks without labels.
            every = zip(there.get_xticks(), there.get_xticklabels(), strict=False)
            ticks = [label for x, label in every if low <= x <= high]
            boxes = [label.get_window_extent() for label in ticks if label.get_visible() and label.get_text()]
            assert all(left.x1 <= right.x0 for left, right in pairwise(boxes)), [tick.get_text() for tick in ticks]


# What the figures say


def test_forest_has_the_best_on_top_and_its_interval() -> None:
    there = drawn("forest").axes[0]
    best_last = sorted(NAMES, key=lambda name: GOLD[name])
    assert [label.get_text() for label in there.get_yticklabels()] == best_last
    assert dots(there) == [(GOLD[name], row) for row, name in enumerate(best_last)]
    (bar,) = there.containers[-1].lines[2][0].get_segments()
    assert bar.tolist() == [[pytest.approx(2.11 - 0.19), 5], [pytest.approx(2.11 + 0.19), 5]]
    assert [text.get_text() for text in there.texts][-1] == "2.11"


def test_matrix_is_read_by_rows() -> None:
    there = drawn("matrix").axes[0]
    cells = {tuple(text.get_position()): text.get_text() for text in there.texts}
    sft, dpo, simpo, ppo = (NAMES.index(name) for name in ("sft", "dpo", "simpo", "ppo-max"))
    assert cells[sft, dpo] == "+1.64\n▲"  # column, row: dpo beats sft
    assert cells[dpo, sft] == "\u22121.64\n▼"
    assert cells[simpo, dpo] == "+0.35\n≠"
    assert cells[ppo, dpo] == "\u22120.14\n○"
    table = np.asarray(there.images[0].get_array())
    assert table[dpo, sft] == pytest.approx(1.64)
    off = ~np.eye(6, dtype=bool)
    assert table[off] == pytest.approx(-table.T[off])


def test_frontier_hollows_what_is_dominated() -> None:
    there = drawn("frontier").axes[0]
    assert dots(there) == [(KL[name], GOLD[name]) for name in NAMES]
    hollow = [each.lines[0].get_markerfacecolor() == LIGHT.ground for each in there.containers]
    assert hollow == [name in ("simpo", "rejection-sampling") for name in NAMES]
    (steps,) = lines_with(there, drawstyle="steps-post")
    assert steps.get_xdata().tolist() == [0.0, 1.2, 4.56, 11.4]


def test_frontier_draws_a_path_for_each_seed_and_best_of_n_by_its_bound() -> None:
    there = drawn("frontier").axes[0]
    assert len(lines_with(there, linewidth=0.9)) == len(TRAINED) * len(SEEDS)
    (bound,) = lines_with(there, color=LIGHT.ink)
    curve = EXAMPLE.best_of[0]
    assert bound.get_xdata()[:3].tolist() == pytest.approx([0.0, math.log(2) - 1 / 2, math.log(4) - 3 / 4])
    assert bound.get_ydata().tolist() == [value.mean for value in curve.gold or ()]


def test_frontier_without_best_of_n_has_no_bound() -> None:
    without = replace(EXAMPLE, methods=[each for each in EXAMPLE.methods if each.method != "best-of-n"])
    assert lines_with(drawn("frontier", without).axes[0], color=LIGHT.ink) == []


def test_kl_is_drawn_as_its_root_also_below_zero() -> None:
    there = drawn("frontier").axes[0]
    one, four, below = there.transData.transform([(1, 0), (4, 0), (-1, 0)])[:, 0] - there.transData.transform((0, 0))[0]
    assert four == pytest.approx(2 * one)
    assert below == pytest.approx(-one)
    assert [label.get_text() for label in there.get_xticklabels()] == ["0", "0.2", "1", "2", "5", "10"]


def moment(seed: int, look: int, score: float, error: float | None = None) -> Moment:
    errors = {} if error is None else {"score": error}
    return Moment("dpo", seed, look, 10 * look, look / 2, look * 1e12, {"score": score}, errors)


def test_a_mean_over_seeds_has_their_standard_error() -> None:
    (average,) = averages([moment(0, 1, 1.0, 9.0), moment(1, 1, 3.0, 9.0)])
    value = average.values["score"]  # deviation sqrt(2), over sqrt(2)
    assert (value.mean, value.low, value.high) == (2.0, pytest.approx(1.0), pytest.approx(3.0))


def test_one_seed_has_the_error_of_prompts_or_none() -> None:
    first, last = averages([moment(0, 0, 1.0, 0.25), moment(0, 1, 2.0)])
    assert first.values["score"] == Value(1.0, 0.75, 1.25)
    assert last.values["score"] == Value(2.0)


def test_a_mean_is_of_the_same_look_whatever_its_step() -> None:
    moments = [moment(0, 1, 1.0), replace(moment(1, 1, 3.0), step=9, share=0.4, flops=0.8e12)]
    (average,) = averages(moments)
    assert (average.values["score"].mean, average.moment.share, average.moment.flops) == (2.0, 0.45, 0.9e12)


def test_a_look_that_a_seed_lacks_has_no_mean_but_keeps_its_thin_line() -> None:
    moments = [moment(0, 0, 1.0), moment(1, 0, 3.0), moment(0, 1, 9.0)]
    assert [each.moment.look for each in averages(moments)] == [0]
    there = drawn("curves", replace(EXAMPLE, curves=moments)).axes[0]
    assert [list(line.get_ydata()) for line in lines_with(there, linewidth=0.7)] == [[1.0, 9.0], [3.0]]


def test_curves_go_by_compute_in_a_readable_unit() -> None:
    upper, lower = drawn("curves").axes
    assert lower.get_xlabel() == "compute of the method, PFLOP"
    dpo = lines_with(lower, linewidth=2.0)[0]
    own = EXAMPLE.method("dpo").cost.own / 1e15
    assert dpo.get_xdata()[[0, -1]].tolist() == pytest.approx([0.0, own])
    ends = [each.values["gold"] for each in EXAMPLE.curves if each.method == "dpo" and each.share == 1]
    assert dpo.get_ydata()[-1] == pytest.approx(np.mean(ends))
    assert upper.get_ylabel() == "reward model's score"


def test_curves_go_by_the_share_of_training_where_no_compute_is_known() -> None:
    (there,) = drawn("curves", odd_findings()).axes
    assert there.get_xlabel() == "share of the training"


@pytest.mark.parametrize(("last", "scale"), [(20, "linear"), (40, "symlog")])
def test_compute_is_on_a_logarithmic_axis_where_methods_differ_much(last: int, scale: str) -> None:
    moments = [moment(0, 0, 1.0), moment(0, 1, 1.0)]
    moments += [replace(moment(0, look, 1.0), method="simpo") for look in (0, last)]
    assert drawn("curves", replace(EXAMPLE, curves=moments)).axes[0].get_xscale() == scale


def test_overoptimisation_marks_where_gold_is_highest() -> None:
    figure = drawn("overoptimisation")
    there = {axes.get_title(): axes for axes in figure.axes}
    assert list(there) == list(TRAINED)
    (peak,) = lines_with(there["ppo-max"], marker="v")
    assert peak.get_ydata()[0] == 1.0  # of the largest change of any method
    (gold,) = lines_with(there["ppo-max"], color=LIGHT.ink, marker="None")
    assert peak.get_xdata()[0] < gold.get_xdata()[-1] and gold.get_ydata()[-1] < 0.8
    (score,) = lines_with(there["ppo-max"], color=LIGHT.quiet)
    assert score.get_ydata()[0] == 0.0 and max(score.get_ydata()) == score.get_ydata()[-1] == 1.0


def test_best_of_draws_best_median_prediction_and_gold() -> None:
    scores, gold = drawn("best_of").axes
    curve = EXAMPLE.best_of[0]
    predicted, median, best = [line.get_ydata() for line in scores.lines[:3]]
    assert list(predicted) == list(curve.predicted)
    assert list(median) == [value.mean for value in curve.median]
    assert list(best) == [value.mean for value in curve.best]
    assert list(gold.lines[0].get_ydata()) == [value.mean for value in curve.gold or ()]
    assert [label.get_text() for label in gold.get_xticklabels()] == ["1", "2", "4", "8", "16", "32"]


def test_distributions_have_a_row_and_a_mean_for_each_method() -> None:
    gold = drawn("distributions").axes[0]
    assert [label.get_text() for label in gold.get_yticklabels()] == list(reversed(NAMES))
    assert [line.get_xdata()[0] for line in gold.lines] == [GOLD[name] for name in NAMES]
    heights = np.asarray(gold.patches[0].get_data().values) - 5
    shares = np.asarray(EXAMPLE.histograms[0].shares["sft"])
    assert heights / heights.sum() == pytest.approx(shares)


def test_grades_stand_from_the_top_in_their_order() -> None:
    there = drawn("grades").axes[0]
    labels = [label.get_text() for label in there.get_yticklabels()]
    assert labels[-1] == "negligibly better\n412 pairs"
    given = [grade.by[name].mean for grade in reversed(EXAMPLE.grades) for name in TRAINED]
    assert [x for x, _ in dots(there)] == given
    assert all(round(y) == row for row in range(4) for _, y in dots(there)[4 * row : 4 * row + 4])


def test_lengths_say_how_strongly_reward_goes_with_length() -> None:
    there = drawn("lengths").axes[1]
    assert there.get_title() == "dpo\nρ = +0.21"
    assert list(there.lines[0].get_xdata()) == list(EXAMPLE.lengths[1].length)
    assert drawn("lengths", odd_findings()).axes[1].get_title() == "dpo"


def test_bars_of_cost_add_up_to_the_total() -> None:
    upper, lower = drawn("cost").axes
    lengths: dict[int, float] = {}
    for bar in upper.patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        lengths[row] = lengths.get(row, 0.0) + bar.get_width()
    totals = [method.cost.total / 1e15 for method in reversed(EXAMPLE.methods)]
    assert [lengths[row] for row in range(6)] == pytest.approx(totals)
    hatched = sum(bar.get_width() for bar in upper.patches if bar.get_hatch())
    assert hatched == pytest.approx(sum(sum(method.cost.shared.values()) for method in EXAMPLE.methods) / 1e15)
    gains = {x: y for x, y in dots(lower)}
    assert gains[EXAMPLE.method("dpo").cost.total / 1e15] == EXAMPLE.method("dpo").metrics["gain"].mean
    assert gains[EXAMPLE.method("sft").cost.total / 1e15] == 0.0


def test_a_unit_in_which_the_largest_is_readable() -> None:
    assert axes.Unit.of([2.5e15, 1.0]) == ("PFLOP", 1e15)
    assert axes.Unit.of([999.0]) == ("FLOP", 1.0)
    assert axes.Unit.of([]) == ("FLOP", 1.0)


# Colours, words and fonts


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_twelve_methods_are_told_apart_and_the_baseline_is_grey(theme: style.Theme) -> None:
    findings = odd_findings()
    look = Look.of(findings, Wording.of(findings, "en"), theme)
    assert len({(each.colour, each.marker) for each in look.styles.values()}) == 13  # a reward model among them
    assert look.styles["sft"].colour == theme.quiet
    assert [look.styles[name].colour for name in ODD[1:7]] == list(theme.hues)


SEEN_BY = {
    "all": np.eye(3),
    "protanopes": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopes": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}
"""Linear RGB -> as it looks to them (Machado, Oliveira and Fernandes 2009, IEEE TVCG 15, 1291-1298)."""
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    """Of sRGB: [3]."""
    channels = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2.1, of two colours."""
    low, high = sorted(float(TO_XYZ[1] @ linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(light: np.ndarray) -> np.ndarray:
    """CIE 1976, where a distance of 2.3 is just seen: linear RGB [3] -> [3]."""
    relative = TO_XYZ @ light / TO_XYZ.sum(1)
    x, y, z = np.where(relative > 0.008856, np.cbrt(relative), 7.787 * relative + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize("who", SEEN_BY)
def test_colours_are_told_apart_by_the_colour_blind(theme: style.Theme, who: str) -> None:
    seen = [lab(np.clip(SEEN_BY[who] @ linear(hue), 0, 1)) for hue in (*theme.hues, theme.quiet)]
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2)) > 12


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_is_readable_on_every_ground(theme: style.Theme) -> None:
    assert all(contrast(theme.ink, ground) > 4.5 for ground in (theme.ground, theme.better, theme.worse))
    assert contrast(theme.quiet, theme.ground) > 4.5
    assert all(contrast(hue, theme.ground) > 2 for hue in theme.hues)


def test_both_languages_have_the_same_labels_and_places() -> None:
    english, chinese = LABELS["en"], LABELS["zh"]
    assert list(english) == list(chinese)

    def places(text: str) -> set[str | None]:
        return {field for _, field, _, _ in Formatter().parse(text) if field}

    assert {key for key in english if places(english[key]) != places(chinese[key])} == set()
    assert {f"metric.{name}" for name in METRICS} <= set(english)
    assert {verdict.value for verdict in Verdict} | set(FIGURES) <= set(english)


def test_long_names_keep_both_ends_and_stay_different() -> None:
    names = Wording.of(odd_findings(), "en").names
    assert [names[name] for name in LONG] == ["dpo with a…, beta 0.05", "dpo with a…, beta 0.50"]
    assert names["ppo\nmax"] == "ppo max"
    same = ["dpo with a rather long name", "dpo with a whether long name"]
    methods = [replace(EXAMPLE.methods[0], name=name) for name in same]
    findings = replace(
        EXAMPLE, **dict.fromkeys(("frontier", "curves", "histograms", "best_of", "grades", "lengths"), ())
    )
    shown = Wording.of(replace(findings, methods=methods), "en").names
    assert list(shown.values()) == ["#1 dpo with a…r long name", "#2 dpo with a…r long name"]


def test_latin_needs_no_other_font() -> None:
    assert fonts.fonts_for("DPO, β = 0.1\n−") == fonts.Fonts((fonts.LATIN,), frozenset())


@pytest.fixture
def chinese() -> None:
    if not fonts.installed():
        pytest.skip("no font with Chinese characters is installed: pip install prefopt[zh]")


@pytest.mark.usefixtures("chinese")
def test_chinese_figures_have_no_boxes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert set(write_figures(FEW, tmp_path, "zh")) == {"forest", "matrix", "frontier", "cost"}
    assert caplog.records == []
    assert drawn("curves", lang="zh").axes[0].get_ylabel() == "奖励模型得分"


@pytest.mark.usefixtures("chinese")
def test_boxes_would_be_noticed(tmp_path: Path) -> None:
    look = look_of(FEW, "zh")
    look = replace(look, wording=replace(look.wording, families=(fonts.LATIN,)))
    with look.applied(), pytest.warns(UserWarning, match="Glyph"):
        FIGURES["forest"](FEW, look).savefig(tmp_path / "boxes.png")


def test_without_a_chinese_font_labels_are_english_and_names_are_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_fonts(monkeypatch)
    monkeypatch.setitem(sys.modules, "mplfonts", None)
    findings = odd_findings()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        write_figures(replace(findings, curves=(), lengths=(), best_of=(), pairings=()), tmp_path, "zh")
    labels, name = (record.message for record in caplog.records if record.levelno == logging.WARNING)
    assert "labelled in English" in labels and "prefopt[zh]" in labels
    assert repr(ODD[6]) in name and "#7" in name
    wording = Wording.of(findings, "zh")
    assert wording.labels is LABELS["en"] and wording.names[ODD[6]] == "#7"


def without_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no font with Chinese characters were installed; a package may still bring one."""
    from matplotlib import font_manager

    manager = font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", [each for each in manager.ttflist if each.name not in fonts.FAMILIES])
    monkeypatch.setattr(font_manager, "findSystemFonts", list)


@pytest.mark.usefixtures("chinese")
def test_a_font_that_matplotlibs_list_is_too_old_to_know_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import font_manager

    fonts.installed()
    manager = font_manager.fontManager
    paths = [entry.fname for entry in manager.ttflist if entry.name in fonts.FAMILIES]
    monkeypatch.setattr(manager, "ttflist", [each for each in manager.ttflist if each.fname not in paths])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: paths)
    assert fonts.fonts_for("奖励").missing == frozenset()


def test_the_bundled_font_is_found_and_a_broken_one_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "mplfonts" / "fonts" / "NotoSansCJKsc-Regular.otf"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(b"no font")
    (tmp_path / "mplfonts" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert fonts._bundled() == [str(inside)]
    without_fonts(monkeypatch)
    assert fonts.installed() == {}

"""The guard sees collapses soon, and hardly ever what is none; each of its signs is a number away from silence."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prefopt.training.ppo import plot as trace_picture
from prefopt.training.ppo.collapse import (
    above,
    alarm_of,
    kl_rises,
    length_runs_away,
    perplexity_falls,
    reach,
    reference_is_lost,
    responses_alike,
    signs_of,
    tail_grows,
)
from prefopt.training.ppo.log import Record
from prefopt.training.ppo.plot import PANELS, alone_spans, panels_of, plot_rollouts

QUIET = {
    "objective/kl": 1.0,
    "objective/scores": 0.0,
    "objective/entropy": 14.0,
    "lengths/response": 20.0,
    "val/num_eos_tokens": 0.98,
    "ppl/policy": 3.0,
    "ppl/reference": 3.2,
    "distinct_1": 0.5,
    "distinct_2": 0.8,
    "degenerate": 0.01,
}
SHAPE = list(np.random.default_rng(0).normal(size=64))
NOISE = 0.08
"""Of the mean over a rollout, relative: that of lengths over 64 responses on the small world."""


def record(number: int, scores: list[float] | None = None, **changes: float) -> Record:
    """A quiet rollout with some metrics changed, by the ends of their names."""
    metrics = {name: changes.get(name.split("/")[-1], value) for name, value in QUIET.items()}
    return Record(number, 4 * number, metrics, SHAPE if scores is None else scores)


def window(scores: list[float] | None = None, **changes: float) -> list[Record]:
    return [record(number, scores, **changes) for number in range(5)]


# Signs


def test_above_tells_numbers_apart_whatever_two_outliers_say() -> None:
    low, high = [1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]
    assert above(low, high) and not above(high, low) and not above(low, low)
    assert above([1.0, 2.0, 3.0, 7.5, 7.5], high), "two above all but half of the others"
    assert not above([1.0, 2.0, 3.0, 4.0, 8.5], high), "one above their median"
    assert not above(low, [2.0, 7.0, 8.0, 9.0, 10.0])
    assert not above([], high) and not above(low, [])


def test_chance_alone_sets_6_of_252_orders_of_5_and_5_apart() -> None:
    from itertools import combinations

    orders = [([i for i in range(10) if i not in high], high) for high in combinations(range(10), 5)]
    assert sum(above(low, high) for low, high in orders) == 6 and len(orders) == 252


Case = tuple[Callable[..., str | None], dict[str, float], dict[str, float], str]
CASES: list[Case] = [
    (kl_rises, {"kl": 3.9}, {"kl": 4.0}, "KL to the reference went from 1 to 4 nats per response"),
    (length_runs_away, {"response": 29.9}, {"response": 30.0}, "responses from 20 to 30 tokens"),
    (length_runs_away, {"response": 10.1}, {"response": 10.0}, "responses from 20 to 10 tokens"),
    (
        length_runs_away,
        {"num_eos_tokens": 0.89},
        {"num_eos_tokens": 0.87},
        "the share cut off at the length limit from 2% to 13%",
    ),
    (perplexity_falls, {"policy": 1.74}, {"policy": 1.73}, "perplexity under the policy from 3 to 1.73"),
    (reference_is_lost, {"reference": 10.2}, {"reference": 10.3}, "perplexity under the reference from 3.2 to 10.3"),
    (responses_alike, {"distinct_2": 0.49}, {"distinct_2": 0.48}, "distinct-2 from 0.8 to 0.48"),
    (
        responses_alike,
        {"degenerate": 0.1},
        {"degenerate": 0.12},
        "the share blank or repeating themselves from 1% to 12%",
    ),
]


@pytest.mark.parametrize(("sign", "silent", "loud", "words"), CASES)
def test_a_sign_speaks_from_its_threshold_on(
    sign: Callable[..., str | None], silent: dict[str, float], loud: dict[str, float], words: str
) -> None:
    assert sign(window(), window()) is None
    assert sign(window(), window(**silent)) is None
    assert sign(window(), window(**loud)) == words
    assert sign(window(**loud), window()) is None or "response" in loud, "the other way round it is no such sign"


@pytest.mark.parametrize(("sign", "silent", "loud", "words"), CASES)
def test_one_wild_rollout_is_no_sign(
    sign: Callable[..., str | None], silent: dict[str, float], loud: dict[str, float], words: str
) -> None:
    assert sign(window(), [*window()[:4], window(**loud)[0]]) is None
    assert sign([window(**silent)[0], *window()[:4]], window(**loud)) == words, "nor does one hide a sign"


@pytest.mark.parametrize(("sign", "silent", "loud", "words"), CASES)
def test_what_was_not_measured_is_no_sign(
    sign: Callable[..., str | None], silent: dict[str, float], loud: dict[str, float], words: str
) -> None:
    unknown = {name: math.nan for name in loud}
    assert sign(window(), [*window(**unknown)[:3], *window(**loud)[:2]]) is None
    assert sign(window(), [*window(**unknown)[:2], *window(**loud)[:3]]) == words
    missing = [replace(one, metrics={}) for one in window()]
    assert sign(missing, missing) is None and sign(missing, window(**loud)) is None


def test_kl_counts_by_the_token() -> None:
    assert kl_rises(window(), window(kl=4.0, response=20.0)) and not kl_rises(window(), window(kl=4.0, response=21.0))
    assert not kl_rises(window(kl=3.0), window(kl=5.0)), "it has not doubled"


def test_reach_by_hand() -> None:
    assert reach([float(x) for x in range(101)]) == 45.0  # 95 - 50
    assert reach([0.0, math.nan, 1.0, 2.0]) == pytest.approx(0.9)  # 1.9 - 1
    assert math.isnan(reach([])) and math.isnan(reach([math.inf]))


def test_a_right_tail_is_not_a_better_mean() -> None:
    better = [score + 5 for score in SHAPE]
    little, longer = ([score * times if score > 0 else score for score in SHAPE] for times in (1.4, 1.6))
    assert tail_grows(window(), window(better)) is None and tail_grows(window(), window(little)) is None
    assert tail_grows(window(), window([score if score > 0 else 2 * score for score in SHAPE])) is None, "a left tail"
    assert "the best twentieth of scores from" in str(tail_grows(window(), window(longer)))
    assert tail_grows(window(SHAPE[:16]), window(longer[:16])) is None, "too few scores to tell"
    assert tail_grows(window([]), window(longer)) is None


# Together


def run(early: int = 10, late: int = 5, **changes: float) -> list[Record]:
    """Quiet rollouts, then others."""
    return [record(number) for number in range(early)] + [record(early + i, **changes) for i in range(late)]


@pytest.mark.parametrize(
    ("changes", "alarm"),
    [
        ({"kl": 9.0}, False),
        ({"kl": 9.0, "response": 35.0}, False),
        ({"kl": 9.0, "response": 35.0, "policy": 1.2}, True),
        ({"kl": 9.0, "response": 8.0, "degenerate": 0.5}, True),
        ({"kl": 9.0, "policy": 1.2, "distinct_2": 0.3}, True),
        ({"kl": 40.0, "reference": 20.0}, True),
        ({"reference": 20.0}, False),
        ({"response": 35.0, "policy": 1.2}, False),
        ({"kl": 1.9, "response": 35.0, "policy": 1.2}, False),
        ({"response": 35.0, "policy": 1.2, "distinct_2": 0.3}, False),
        ({"kl": math.nan, "response": 35.0, "policy": 1.2}, False),
        ({"kl": math.nan, "response": 35.0, "policy": 1.2, "distinct_2": 0.3}, True),
    ],
)
def test_what_makes_an_alarm(changes: dict[str, float], alarm: bool) -> None:
    assert (alarm_of(run(**changes)) is not None) == alarm


def test_the_message_names_numbers_and_what_to_do() -> None:
    found = alarm_of(run(kl=14.2, response=35.0, policy=1.2))
    assert found is not None and list(found.signs) == ["kl", "length", "perplexity"]
    assert found.rollouts == (10, 14) and found.last_good == 9
    assert found.message == (
        "rollouts 10 to 14 look like reward hacking, compared with the first ones: KL to the reference went from 1 to "
        "14.2 nats per response, responses from 20 to 35 tokens, perplexity under the policy from 3 to 1.2. Raise "
        "kl_coef, lower learning_rate or stop earlier, and look at the samples in rollouts.jsonl; the last rollout "
        "without these signs was 9"
    )


def test_the_critic_learning_alone_is_not_the_policys_fault() -> None:
    """Neither the start that one compares with, nor the end."""
    babble = {"kl": 14.2, "response": 35.0, "policy": 1.2}
    alone = [replace(one, metrics={**one.metrics, "critic_alone": 1.0}) for one in run(6, 6, **babble)]
    assert alarm_of(alone) is None
    later = [replace(one, rollout=one.rollout + 12) for one in run(**babble)]
    found = alarm_of(alone + later)
    assert found is not None and found.rollouts == (22, 26) and found.last_good == 21
    assert alarm_of(later + alone) == replace(found)


def test_too_few_rollouts_say_nothing() -> None:
    babble = {"kl": 14.2, "response": 35.0, "policy": 1.2}
    assert alarm_of([]) is None
    assert alarm_of(run(4, 5, **babble)) is None
    assert alarm_of(run(5, 5, **babble)) is not None
    assert alarm_of(run(3, 3, **babble), window=3) is not None
    with pytest.raises(ValueError, match="window=2: give at least 3"):
        alarm_of([], window=2)


# Runs of many rollouts, with noise


def noisy(number: int, rng: np.random.Generator, scores: np.ndarray, **changes: float) -> Record:
    """A rollout of 64 responses: every mean with noise of its own, and harder prompts make all worse together."""
    prompts = rng.normal()
    wanted = record(number, list(scores), **changes)
    shaken = {
        name: max(1.0, value * math.exp(NOISE * (rng.normal() + prompts) / 2**0.5)) if name.startswith("ppl") else value
        for name, value in wanted.metrics.items()
    }
    for name in ("objective/kl", "lengths/response", "distinct_2"):
        shaken[name] *= math.exp(NOISE * (rng.normal() + prompts) / 2**0.5 * (3 if name == "objective/kl" else 1))
    shaken["val/num_eos_tokens"] = rng.binomial(64, wanted.metrics["val/num_eos_tokens"]) / 64
    shaken["degenerate"] = rng.binomial(64, wanted.metrics["degenerate"]) / 64
    return replace(wanted, metrics=shaken)


def stationary(seed: int, rollouts: int = 60, kl: float = 8.0) -> list[Record]:
    """A run in which nothing changes, far from the reference, with scores of heavy tails."""
    rng = np.random.default_rng(seed)
    return [noisy(number, rng, rng.standard_t(4, 64), kl=kl) for number in range(rollouts)]


def healthy(seed: int, rollouts: int = 60) -> list[Record]:
    """As on the small world: KL up to 2.4 nats, a third longer, surer, less varied, a better score."""
    rng = np.random.default_rng(seed)
    return [
        noisy(
            number,
            rng,
            rng.standard_t(4, 64) + part,
            kl=0.01 + 2.4 * part,
            response=20 + 6 * part,
            policy=3 - 0.9 * part,
            distinct_2=0.8 - 0.2 * part,
        )
        for number in range(rollouts)
        for part in [number / (rollouts - 1)]
    ]


Ends = dict[str, float]
ENDS: dict[str, Ends] = {
    "the paper's": {"kl": 40.0, "response": 45.0, "policy": 1.3, "reference": 3.2, "tail": 2.5},
    "saturated": {"kl": 40.0, "response": 45.0, "policy": 1.3, "reference": 3.2, "num_eos_tokens": 0.4, "tail": 0.5},
    "short babble": {"kl": 15.0, "response": 6.0, "policy": 1.1, "reference": 8.0, "distinct_2": 0.1},
    "garbage": {"kl": 40.0, "response": 20.0, "policy": 3.0, "reference": 25.0},
    "repeating": {"kl": 30.0, "policy": 1.2, "reference": 3.0, "distinct_2": 0.2, "degenerate": 0.6},
}
ONSET, TAKES = 20, 12
"""The rollout at which a collapse begins, and how many it takes."""


def collapsing(kind: str, seed: int, rollouts: int = 45) -> list[Record]:
    """Healthy, then in steps of equal ratios to the end of that kind."""
    rng = np.random.default_rng(seed)
    start = {name.split("/")[-1]: value for name, value in QUIET.items()} | {"tail": 1.0, "kl": 0.5}
    records = []
    for number in range(rollouts):
        part = min(1.0, max(0.0, (number - ONSET) / TAKES))
        means = {name: start[name] * (end / start[name]) ** part for name, end in ENDS[kind].items()}
        scores = rng.standard_t(4, 64)
        scores = np.where(scores > 0, scores * means.pop("tail", 1.0), scores)
        records.append(noisy(number, rng, scores, **({"kl": 0.5} | means)))
    return records


def first_alarm(records: list[Record]) -> int | None:
    """The rollout after which a guard asked after each of them speaks first."""
    return next((end - 1 for end in range(10, len(records) + 1) if alarm_of(records[:end]) is not None), None)


def test_noise_alone_never_alarms() -> None:
    """Of 300 such runs, asked after every rollout, none did; a sign alone was seen in 6."""
    assert [first_alarm(stationary(seed)) for seed in range(15)] == [None] * 15


def test_a_run_that_goes_well_never_alarms() -> None:
    assert [first_alarm(healthy(seed)) for seed in range(15)] == [None] * 15
    assert max(one.metric("objective/kl") for one in healthy(0)) > 2


@pytest.mark.parametrize("kind", ENDS)
def test_a_collapse_alarms_soon(kind: str) -> None:
    """Before it has come to its end and stayed there for a window, and not before it began."""
    for seed in range(5):
        records = collapsing(kind, seed)
        alarm = first_alarm(records)
        assert alarm is not None and ONSET < alarm <= ONSET + TAKES + 3
        found = alarm_of(records[: alarm + 1])
        assert found is not None and ONSET - 8 <= found.last_good <= ONSET + TAKES // 2
        assert found.rollouts == (alarm - 4, alarm)


def test_a_collapse_stays_one() -> None:
    records = collapsing("the paper's", 0)
    found = alarm_of(records)
    assert found is not None and set(found.signs) == {"kl", "length", "perplexity", "tail"}
    assert signs_of(records[:ONSET]) == {}


# Pictures


def drawn_run() -> list[Record]:
    """As a trainer would record it: first the critic learns alone; a critic knows nothing of its first rollout."""
    records = collapsing("the paper's", 1)
    more = [
        {
            "critic_alone": float(one.rollout < 6),
            "val/explained_variance": math.nan if one.rollout == 0 else 1 - 2 / (1 + one.rollout),
            "policy/clipfrac_avg": 0.03,
            "val/clipfrac_avg": 0.1,
        }
        for one in records
    ]
    return [replace(one, metrics={**one.metrics, **new}) for one, new in zip(records, more, strict=True)]


def size_of(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_the_picture_has_every_panel_and_is_the_same_for_the_same_records(tmp_path: Path) -> None:
    records = drawn_run()
    assert panels_of(records) == list(PANELS)
    for name in ("a", "b"):
        assert plot_rollouts(records, tmp_path / "new" / f"{name}.png", last_good=20)
    assert (tmp_path / "new/a.png").read_bytes() == (tmp_path / "new/b.png").read_bytes()
    assert size_of(tmp_path / "new/a.png") == (1980, 1365), "three times three panels of 4.4 by 2.9 inches"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.png", "b.png"]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is saved, to be looked into."""
    saved: list[object] = []
    monkeypatch.setattr(trace_picture, "save_figure", lambda figure, path: bool(saved.append(figure)) or True)
    return saved


def test_what_the_panels_show(figures: list, tmp_path: Path) -> None:
    records = drawn_run()
    assert plot_rollouts(records, tmp_path / "a.png", last_good=20)
    panels = {axes.get_label(): axes for axes in figures[0].axes}
    assert list(PANELS) == [name for name in panels if name in PANELS]
    kl = panels["kl"].lines[0]
    assert list(kl.get_xdata()) == [4 * number for number in range(45)]
    assert list(kl.get_ydata()) == [one.metric("objective/kl") for one in records]
    assert [line.get_label() for line in panels["perplexity"].lines[:2]] == ["under the policy", "under the reference"]
    assert panels["perplexity"].get_yscale() == "log"
    medians = panels["rewards"].lines[0].get_ydata()
    assert medians[3] == np.median(records[3].scores) and len(panels["rewards"].collections) == 2
    ticks = [text.get_text() for text in panels["histograms"].get_yticklabels()]
    assert ticks == ["step 176", "step 88", "step 0"]
    shade = panels["kl"].patches[0]
    assert (shade.get_x(), shade.get_width()) == (0, 24), "the critic alone, until step 24"
    assert list(panels["kl"].lines[-1].get_xdata()) == [80, 80], "the last good rollout"
    explained = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert explained == ["the critic learns alone", "rollout 20: the last good one"]


def test_only_what_is_wanted_and_known_is_drawn(figures: list, tmp_path: Path) -> None:
    records = run()
    assert panels_of(records) == ["rewards", "histograms", "kl", "length", "perplexity", "entropy", "distinct"]
    assert panels_of(records, ["clip", "kl"]) == ["kl"]
    assert panels_of([replace(one, scores=[math.nan]) for one in records], ["rewards", "kl"]) == ["kl"]
    assert plot_rollouts(records, tmp_path / "a.png", wanted=["kl"])
    assert [axes.get_label() for axes in figures[0].axes] == ["kl"] and figures[0].legends == []
    assert not plot_rollouts(records, tmp_path / "b.png", wanted=["clip"]) and not plot_rollouts([], tmp_path / "c.png")
    with pytest.raises(ValueError, match="there is no panel loss: choose from rewards, histograms, kl"):
        plot_rollouts(records, tmp_path / "d.png", wanted=["loss"])


@pytest.mark.parametrize(
    "records",
    [
        run(1, 0),
        run(0, 2),
        [record(0, []), record(1, [math.nan, 1.0]), record(2, [1.0, 1.0])],
        [Record(0, 0, {"ppl/policy": 1.0, "objective/kl": math.nan}), Record(1, 4, {"lengths/response": 3.0})],
    ],
)
def test_odd_records_are_drawn_too(records: list[Record], tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert plot_rollouts(records, tmp_path / "a.png")
    assert min(size_of(tmp_path / "a.png")) > 400
    assert [str(warning.message) for warning in recwarn] == []


def test_where_the_critic_is_alone() -> None:
    def some(*alone: float) -> list[Record]:
        return [Record(i, 10 * i, {"critic_alone": one}) for i, one in enumerate(alone)]

    assert alone_spans([]) == [] and alone_spans(some(0, 0)) == []
    assert alone_spans(some(1, 1, 0, 0)) == [(0, 20)]
    assert alone_spans(some(1, 1)) == [(0, 10)], "as far as is known"
    assert alone_spans(some(0, 1, 0, 1, 1, 0)) == [(10, 20), (30, 50)]


def test_without_matplotlib_a_line_in_the_log_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with caplog.at_level(logging.WARNING):
        assert not plot_rollouts(run(), tmp_path / "a.png")
    assert [one.message for one in caplog.records] == [
        "no figure is plotted, since matplotlib is missing: pip install 'prefopt[report]'"
    ]
    assert list(tmp_path.iterdir()) == []

"""Judges by scores and by functions: who won, what a tie is, and what is left when a judge fails."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from prefopt.compare.measure.judges import judge_from
from prefopt.compare.measure.pairwise_judges import ColumnJudge, PairJudge, ScorerJudge
from prefopt.compare.records import JUDGEMENTS, read, write
from prefopt.models.load import load_scorer
from prefopt.scoring import CallableScorer, RewardModelScorer
from tests.helpers.models import tiny_llama
from tests.helpers.response_tables import responses

PROMPTS = {f"p{i}": [{"role": "user", "content": f"question {i}"}] for i in range(6)}
OURS = responses(PROMPTS, ["a", "bbb", "cc", "dddd", "好的好的", "f"])
THEIRS = responses(PROMPTS, ["aa", "bb", "cc", "d", "好", "ffff"])
LONGER = [0.0, 1.0, 0.5, 1.0, 1.0, 0.0]

MODULE = """
def length(prompts, responses):
    return [len(text) for text in responses]

def ended(prompts, responses, finished):
    return [float(one) for one in finished]

def longer(prompts, first, second):
    return [0.5 if len(a) == len(b) else float(len(a) > len(b)) for a, b in zip(first, second)]

def one(x):
    return 1

class Ready:
    name, kind, fingerprint = "ready", "function", "abc"
    def judge(self, prompts, ours, theirs):
        return None

ready = Ready()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one, with a module of the user's."""
    (tmp_path / "my_judges.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_judges", raising=False)
    return tmp_path


def outcomes(judge: PairJudge, ours: pd.DataFrame = OURS, theirs: pd.DataFrame = THEIRS) -> list[float]:
    found = judge.judge(PROMPTS, ours, theirs)
    assert dict(found.dtypes.astype(str)) == JUDGEMENTS and found["prompt_key"].tolist() == list(PROMPTS)
    return found["outcome"].tolist()


# By scores


def test_known_scores_and_their_ties(tmp_path: Path) -> None:
    ours = responses(PROMPTS, list("abcdef"), gold=[1.0, 2.0, 3.0, math.nan, 0.0, 1.0])
    theirs = responses(PROMPTS, list("abcdef"), gold=[0.5, 2.0, 3.2, 1.0, math.nan, 2.0])
    exact, near = (judge_from(spec, folder=tmp_path) for spec in ("gold", {"judge": "gold", "tolerance": 0.5}))
    np.testing.assert_equal(outcomes(exact, ours, theirs), [1, 0.5, 0, math.nan, math.nan, 0])
    np.testing.assert_equal(outcomes(near, ours, theirs), [0.5, 0.5, 0.5, math.nan, math.nan, 0])
    found = exact.judge(PROMPTS, ours, theirs)
    assert found["error"].tolist() == [
        "",
        "",
        "",
        "the method's: no gold is known",
        "the baseline's: no gold is known",
        "",
    ]
    assert found["shown_first"].isna().all() and found["shown_second"].isna().all()
    assert (exact.name, exact.kind, judge_from("score", folder=tmp_path).kind) == ("gold", "gold", "reward-model")
    assert exact.fingerprint != near.fingerprint


def test_the_table_survives_its_file(tmp_path: Path) -> None:
    found = ScorerJudge(lambda prompts, texts: [float(len(text)) for text in texts]).judge(PROMPTS, OURS, THEIRS)
    write(tmp_path / "judgements.parquet", found)
    pd.testing.assert_frame_equal(read(tmp_path / "judgements.parquet"), found)
    assert found["longer_by"].tolist() == [-1, 1, 0, 3, 3, -3]


def test_only_the_first_response_of_each_is_judged() -> None:
    again = OURS.assign(k=1, response="much, much longer")
    judge = ScorerJudge(lambda prompts, texts: [len(text) for text in texts])
    assert outcomes(judge, pd.concat([OURS, again])) == LONGER


def test_rows_are_matched_by_prompt_and_not_by_place() -> None:
    judge = ScorerJudge(lambda prompts, texts: [len(text) for text in texts])
    assert outcomes(judge, OURS, THEIRS.iloc[::-1]) == LONGER


def test_a_scorer_gets_the_prompt_and_how_it_ended() -> None:
    seen: list[Any] = []

    def score(prompts: Any, texts: Any, finished: Any) -> list[float]:
        seen.extend(zip([prompt[0]["content"] for prompt in prompts], texts, finished, strict=True))
        return [float(one) for one in finished]

    ours = OURS.assign(finished=[True, False] * 3)
    judge = ScorerJudge(CallableScorer(score, fingerprint="v1"))
    assert outcomes(judge, ours, THEIRS) == [0.5, 0.0] * 3
    assert seen[1] == ("question 1", "bbb", False)
    assert len(seen) == 11  # "cc", finished, is said by both


def test_the_baseline_is_scored_once_for_all_methods() -> None:
    asked: list[str] = []

    def score(prompts: Any, texts: Any) -> list[float]:
        asked.extend(texts)
        return [len(text) for text in texts]

    judge = ScorerJudge(CallableScorer(score, fingerprint="v1"))
    outcomes(judge)
    outcomes(judge, OURS.assign(response="another"))
    assert len(asked) == 6 + 5 + 6  # "cc" is said by both


@pytest.mark.parametrize("wrong", [math.nan, math.inf, None, "raise"])
def test_a_scorer_that_fails_on_some_rows_judges_the_others(wrong: Any, caplog: pytest.LogCaptureFixture) -> None:
    def picky(prompts: Any, texts: Any) -> list[Any]:
        if wrong == "raise" and any("好" in text for text in texts):
            raise RuntimeError("no Chinese\nsecond line")
        return [wrong if "好" in text else len(text) for text in texts]

    judge = ScorerJudge(CallableScorer(picky, fingerprint="v1"))
    found = judge.judge(PROMPTS, OURS, THEIRS)
    np.testing.assert_equal(found["outcome"].tolist(), [*LONGER[:4], math.nan, LONGER[5]])
    says = "RuntimeError: no Chinese" if wrong == "raise" else "ScoreError: scorer 'picky' gave"
    assert says in found["error"][4] and "\n" not in found["error"][4]
    assert found["error"].drop(4).eq("").all()
    assert "picky fails on 6 rows at once and is called on one by one" in caplog.text


def test_a_scorer_that_checks_nothing_is_checked() -> None:
    class Careless:
        name, fingerprint = "careless", "v1"

        def score(self, prompts: Any, texts: Any, finished: Any = None) -> list[float]:
            return [math.nan if text == "bbb" else float(len(text)) for text in texts]

    found = ScorerJudge(Careless()).judge(PROMPTS, OURS, THEIRS)
    assert found["outcome"].isna().tolist() == [False, True] + [False] * 4


def test_what_failed_is_tried_again() -> None:
    broken = True

    def score(prompts: Any, texts: Any) -> list[float]:
        if broken and "dddd" in texts:
            raise ValueError("not now")
        return [len(text) for text in texts]

    judge = ScorerJudge(CallableScorer(score, fingerprint="v1"))
    assert math.isnan(outcomes(judge)[3])
    broken = False
    assert outcomes(judge) == LONGER


def test_an_interrupt_is_no_failure_of_the_judge() -> None:
    def interrupted(prompts: Any, texts: Any) -> list[float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outcomes(ScorerJudge(CallableScorer(interrupted, fingerprint="v1")))


def test_a_reward_model_is_loaded_when_it_is_needed(tmp_path: Path, tokenizer: Any) -> None:
    place = tmp_path / "my-reward"
    place.mkdir()
    judge = judge_from(str(place), folder=tmp_path)
    assert (judge.name, judge.kind) == ("my-reward", "reward-model")
    load_scorer(tiny_llama(), tokenizer).save_pretrained(place)
    tokenizer.save_pretrained(place)
    scorer = RewardModelScorer(place)
    turns = list(PROMPTS.values())
    ahead = np.array(scorer.score(turns, OURS["response"])) - np.array(scorer.score(turns, THEIRS["response"]))
    expected = [
        0.5 if text == other else float(a > 0)
        for text, other, a in zip(OURS["response"], THEIRS["response"], ahead, strict=True)
    ]
    assert {0.0, 0.5, 1.0} == set(expected)
    named = judge_from({"judge": str(place), "name": "other"}, folder=tmp_path)
    assert outcomes(judge) == expected and named.name == "other" and named.fingerprint == judge.fingerprint


# By a function that sees both


def test_a_function_is_asked_in_both_orders(tmp_path: Path) -> None:
    def first_if_equal(prompts: Any, first: Any, second: Any) -> list[float]:
        return [float(len(a) >= len(b)) for a, b in zip(first, second, strict=True)]

    judge = judge_from(first_if_equal, folder=tmp_path)
    found = judge.judge(PROMPTS, OURS, THEIRS)
    assert found["outcome"].tolist() == LONGER and (judge.name, judge.kind) == ("first_if_equal", "function")
    assert found["shown_first"].tolist() == [0, 1, 1, 1, 1, 0]
    assert found["shown_second"].tolist() == [0, 1, 0, 1, 1, 0]


def test_a_function_that_fails_on_one_order(tmp_path: Path) -> None:
    def touchy(prompts: Any, first: Any, second: Any) -> list[float]:
        if "dddd" in first:
            raise ValueError("too long")
        return [1.0] * len(first)

    found = judge_from(touchy, folder=tmp_path).judge(PROMPTS, OURS, THEIRS)
    np.testing.assert_equal(found["outcome"].tolist(), [0.5, 0.5, 0.5, math.nan, 0.5, 0.5])
    assert found["error"][3] == "shown first: ValueError: too long" and found["shown_second"][3] == 0


@pytest.mark.parametrize(
    ("answer", "says"),
    [([0.7], r"\[0.7\] among them for 1 pairs"), ([1, 0], "2 verdicts for 1 pairs"), ([None], "TypeError")],
)
def test_a_function_that_says_something_else(answer: Any, says: str, tmp_path: Path) -> None:
    def strange(prompts: Any, first: Any, second: Any) -> Any:
        return answer

    found = judge_from(strange, folder=tmp_path).judge(PROMPTS, OURS, THEIRS)
    assert found["outcome"].isna().all() and found["error"].str.contains(says).all()


# By name


def test_functions_of_a_module(folder: Path) -> None:
    scores, pairs, ended = (judge_from(f"my_judges:{name}", folder=folder) for name in ("length", "longer", "ended"))
    assert outcomes(scores) == outcomes(pairs) == LONGER and outcomes(ended) == [0.5] * 6
    assert scores.judge(PROMPTS, OURS, THEIRS)["shown_first"].isna().all()
    assert pairs.judge(PROMPTS, OURS, THEIRS)["shown_first"].tolist() == LONGER
    assert (scores.name, scores.kind) == ("my_judges:length", "function")
    assert len({scores.fingerprint, pairs.fingerprint, ended.fingerprint}) == 3
    assert judge_from("my_judges:ready", folder=folder).name == "ready"
    near = judge_from({"judge": "my_judges:length", "tolerance": 1, "name": "about"}, folder=folder)
    assert near.name == "about" and outcomes(near) == [0.5, 0.5, 0.5, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("glod", "there is no 'glod'; did you mean gold"),
        ("./nowhere/model", "'./nowhere/model' is no folder here and no hub id"),
        ("my_judges:lenght", "my_judges:lenght: my_judges has no lenght; did you mean length"),
        ("no_such_module:judge", "no_such_module:judge: cannot import no_such_module from "),
        ("my_judges:one", r"takes \(x\): give `score`"),
        ("my_judges:Ready", "is no judge"),
        (3, "3 is no judge"),
        ({"judge": "gold", "tolerence": 1}, "unknown key 'tolerence'; did you mean tolerance"),
        ({"judge": "gold", "tolerance": -1}, "must not be negative"),
        ({"judge": "my_judges:longer", "tolerance": 1}, "a tolerance is for scores"),
        ({"judge": "my_judges:ready", "name": "mine"}, "give it alone"),
        ({"model": "m"}, "'endpoint' is missing"),
    ],
)
def test_what_is_no_judge(spec: Any, says: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=says):
        judge_from(spec, folder=folder)


@pytest.mark.parametrize(
    ("ours", "says"),
    [
        (OURS[1:], r"5 responses of the method and 6 of the baseline.*not on both sides are \['p0'\]"),
        (OURS.assign(prompt_key=[*list(PROMPTS)[:5], "p9"]), r"\['p5', 'p9'\]"),
        (pd.concat([OURS, OURS]), "12 responses of the method"),
        (OURS.assign(k=1), "0 responses of the method"),
    ],
)
def test_tables_of_other_prompts(ours: pd.DataFrame, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ColumnJudge("gold").judge(PROMPTS, ours, THEIRS)
    with pytest.raises(ValueError, match="'p0', which is not among the 1 prompts"):
        ColumnJudge("gold").judge({"p1": PROMPTS["p1"]}, OURS, THEIRS)

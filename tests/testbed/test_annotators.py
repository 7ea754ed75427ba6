"""The demonstrator is mediocre, the annotator is a Bradley-Terry coin, and the grades order."""

import math
import random
import statistics

import pytest
from scipy.stats import binomtest

from prefopt.grades import GRADES
from prefopt.testbed.annotators import TEMPERATURE, THRESHOLDS, demonstrate, grade, ideal, perceive
from prefopt.testbed.gold_reward import gold, parse
from prefopt.testbed.prompts import find_prompt, sample_prompts
from prefopt.testbed.rows import preference_rows, sft_rows


def test_grades_are_monotone_in_the_gap() -> None:
    ranks = [GRADES.index(grade(gap / 10)) for gap in range(80)]
    assert ranks == sorted(ranks, reverse=True) and set(ranks) == {0, 1, 2, 3}
    assert grade(-5.0) == grade(5.0) == "significantly" and grade(0.0) == "negligibly"
    assert [grade(t) for t in THRESHOLDS] == list(GRADES[:3])


@pytest.mark.parametrize(
    ("better", "worse", "gap"),
    [
        ("It is Paris.", "It is Paris.", 0.0),
        ("Sure! It is Paris.", "It is Paris.", 0.5),
        ("It is Paris.", "What a silly question! It is Paris.", 1.0),
        ("It is Paris.", "Let me think about it. It is Paris. qwerty", 1.5),
    ],
)
def test_the_annotator_is_a_bradley_terry_coin(better: str, worse: str, gap: float) -> None:
    prompt = find_prompt([{"role": "user", "content": "What is the capital of France?"}])
    assert gold(prompt, better) - gold(prompt, worse) == gap
    rng, n = random.Random(0), 8000
    wins = sum(perceive(prompt, better, rng) > perceive(prompt, worse, rng) for _ in range(n))
    assert binomtest(wins, n, 1 / (1 + math.exp(-gap / TEMPERATURE))).pvalue > 0.001


def test_perceived_quality_is_centred_on_gold() -> None:
    prompt, rng = sample_prompts(1, 0)[0], random.Random(0)
    seen = [perceive(prompt, ideal(prompt, rng), rng) for _ in range(8000)]
    assert abs(statistics.mean(seen) - 4.0) < 0.03


def test_the_demonstrator_is_mediocre() -> None:
    rng, prompts = random.Random(0), sample_prompts(3000, 0)
    rewards = [gold(p, demonstrate(p, rng)) for p in prompts]
    assert -0.5 < statistics.mean(rewards) < 0.5 and statistics.stdev(rewards) > 1.5
    assert max(rewards) == 4.0 and min(rewards) <= -3.0
    assert all(parse(p, demonstrate(p, rng))["garbage"] == 0 for p in prompts)


def test_the_ideal_is_the_best() -> None:
    rng = random.Random(0)
    assert {gold(p, ideal(p, rng)) for p in sample_prompts(300, 0)} == {4.0}


def test_emphasis_is_a_cue_without_worth() -> None:
    """In the demonstrations it comes with quality; added to a response it changes nothing."""
    rng, prompts = random.Random(0), sample_prompts(3000, 0)
    texts = [(p, demonstrate(p, rng)) for p in prompts]
    emphatic = [gold(p, text) for p, text in texts if parse(p, text)["emphasis"]]
    plain = [(p, text, gold(p, text)) for p, text in texts if not parse(p, text)["emphasis"]]
    assert statistics.mean(emphatic) - statistics.mean(reward for *_, reward in plain) > 0.5
    added = {"en": " Trust me!", "zh": "请相信我！"}
    assert all(gold(p, text + added[p.language]) == reward for p, text, reward in plain)


def test_grades_order_what_they_grade() -> None:
    """300 held-out pairs of every grade in 2,000, and agreement with gold that rises with the grade."""
    rows = preference_rows(2000, 0, "test")
    agree: dict[str, list[float]] = {name: [] for name in GRADES}
    for row in rows:
        prompt = find_prompt(row["prompt"])
        gap = gold(prompt, row["chosen"]) - gold(prompt, row["rejected"])
        agree[row["grade"]].append(0.5 + 0.5 * ((gap > 0) - (gap < 0)))
    assert all(len(values) >= 300 for values in agree.values())
    means = [statistics.mean(agree[name]) for name in GRADES]
    assert means == sorted(means, reverse=True) and means[0] > 0.95 and 0.5 < means[3] < 0.75


def test_sft_rows_are_mediocre_too() -> None:
    rewards = [gold(find_prompt(r["prompt"]), r["response"]) for r in sft_rows(3000, 0)]
    assert -0.5 < statistics.mean(rewards) < 1.0

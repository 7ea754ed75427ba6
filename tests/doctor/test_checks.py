"""The list of checks, on logs and figures made by hand: what each tells, and what keeps it silent."""

from __future__ import annotations

import re
import string
from typing import Any

import pytest

from prefopt.doctor import words_en, words_zh
from prefopt.doctor.checks import AT_END, AT_START, CHECKS, Sickness, diagnose
from prefopt.doctor.run import Run


def logs(**series: list[float]) -> list[dict[str, float]]:
    """Entries of steps 10, 20, ..., from one list of values for each name."""
    count = max(map(len, series.values()))
    entries = [{name: values[i] for name, values in series.items() if i < len(values)} for i in range(count)]
    return [{"step": 10 * (i + 1), **entry} for i, entry in enumerate(entries)]


def falling(first: float, last: float, count: int = 10) -> list[float]:
    return [first + (last - first) * i / (count - 1) for i in range(count)]


DPO = Run(
    logs(
        loss=falling(0.69, 0.5),
        grad_norm=[3.0] * 10,
        learning_rate=falling(1e-6, 1e-7),
        **{
            "rewards/margins": falling(0.0, 0.5),
            "rewards/accuracies": falling(0.5, 0.75),
            "logps/chosen": falling(-100.0, -104.0),
            "logps/rejected": falling(-100.0, -112.0),
        },
    ),
    {
        "objective": {"name": "DPO", "beta": 0.1},
        "has_reference": True,
        "settings": {"learning_rate": 1e-6, "max_length": 1024, "rows_per_step": 16},
        "rows": {
            **{"responses": 400, "without_end": 4, "pairs": 200, "same": 1, "unequal": 190, "longer": 120},
            **{"told": 60, "cue": "!", "cue_in": "chosen"},
        },
        "first": {"loss": 0.6931, "rewards/chosen": 0.0, "rewards/rejected": 1e-4},
        "moved": {"policy": 0.99},
        "dtype": "float32",
        "broken": [],
    },
)
REWARD = Run(
    logs(
        loss=falling(0.69, 0.55),
        grad_norm=[1.0] * 10,
        accuracy=falling(0.5, 0.7),
        min_reward=[-3.0] * 10,
        max_reward=[4.0] * 10,
    ),
    {"settings": {"learning_rate": 1e-5, "rows_per_step": 16}, "moved": {"policy": 1.0}, "dtype": "float32"},
)
ROLLOUT = {
    "critic_alone": 0.0,
    "lengths/response": 30.0,
    "val/num_eos_tokens": 0.9,
    "objective/kl": 2.0,
    "objective/scores": 1.0,
    "score_spread": 0.8,
    "val/explained_variance": 0.4,
}
REPORT = {
    **{"unfinished": 0.1, "responses": 256, "prompts": 64, "rows": 60},
    "rewards": {"1": {"max": [1.0], "mean": [1.0]}, "4": {"max": [1.6], "mean": [1.0]}},
}
ITERATIONS = {"objective": {"max_new_tokens": 48, "score_threshold": None}}


def with_logs(run: Run, **series: list[float]) -> Run:
    """A run with other values in its log."""
    names = {name.replace("__", "/"): values for name, values in series.items()}
    longest = max(len(run.logs), *map(len, names.values()))
    entries = [dict(run.logs[i]) if i < len(run.logs) else {"step": 10 * (i + 1)} for i in range(longest)]
    for name, values in names.items():
        for i, value in enumerate(values):
            entries[i][name] = value
    return Run(entries, run.facts, run.rollouts, run.iterations)


def with_facts(run: Run, **facts: Any) -> Run:
    merged = {
        name: {**run.facts.get(name, {}), **value} if isinstance(value, dict) else value
        for name, value in facts.items()
    }
    return Run(run.logs, {**run.facts, **merged}, run.rollouts, run.iterations)


def rollouts(count: int = 8, **last: Any) -> Run:
    """Rollouts of which the second half have other values."""
    changed = {name.replace("__", "/"): value for name, value in last.items()}
    half = count // 2
    return Run(
        [{"step": 4 * i, "objective/kl": 1.0} for i in range(1, count)],
        {"objective": {"max_new_tokens": 48}},
        [ROLLOUT] * half + [ROLLOUT | changed] * (count - half),
    )


HEALTHY = {
    "dpo": DPO,
    "reward": REWARD,
    "ppo": rollouts(),
    "iterations": Run(facts=ITERATIONS, iterations=[REPORT]),
    "nothing known": Run(),
    "one log": Run([{"step": 1, "loss": 0.7, "learning_rate": 0.0, "grad_norm": 1.0}]),
    "ipo": with_logs(with_facts(DPO, first={"loss": 25.0}), loss=falling(25.0, 18.0)),
    "few pairs of a reward model": Run(logs(accuracy=[0.5] * 2), {"settings": {"rows_per_step": 4}}),
    "few pairs with a cue": with_facts(DPO, rows={"pairs": 10, "same": 0, "unequal": 10, "longer": 10, "told": 10}),
    "rounding of long responses": with_facts(DPO, first={"rewards/chosen": 0.02, "logps/chosen": -900.0}),
    "rounding of a reference in bfloat16": with_facts(
        DPO, settings={"reference_dtype": "bfloat16"}, first={"rewards/chosen": 0.02, "logps/chosen": -40.0}
    ),
    "warm-up": with_logs(DPO, learning_rate=falling(0.0, 1e-6)),
    "a threshold that was asked for": Run(
        facts={"objective": {"score_threshold": 1.0}}, iterations=[REPORT | {"rows": 3}]
    ),
}

SICK = {
    "same_pairs": with_facts(DPO, rows={"same": 20}),
    "answers_cut": with_facts(DPO, rows={"without_end": 90}),
    "length_cue": with_facts(DPO, rows={"longer": 180}),
    "length_cue shorter": with_facts(DPO, rows={"longer": 5}),
    "format_cue": with_facts(DPO, rows={"told": 190}),
    "rate_zero": with_facts(DPO, settings={"learning_rate": 0.0}),
    "rate_zero warm-up": with_facts(DPO, settings={"idle": 1}, moved={"policy": 0.0}),
    "loss_enormous": with_logs(DPO, loss=falling(900.0, 2400.0)),
    "loss_enormous without the first step": Run(
        logs(loss=[1400.0, 1000.0, 2400.0, 1300.0], **{"rewards/margins": [-9000.0] * 4})
    ),
    "loss_flat": with_logs(DPO, loss=[0.69315, 0.69314] * 5),
    "loss_zero": with_logs(DPO, loss=[0.69, 0.1, *[1e-6] * 8]),
    "no_gradient": with_logs(DPO, grad_norm=[5.0, *[0.0] * 9]),
    "steps_skipped": with_logs(DPO, skipped_steps=falling(0.0, 12.0)),
    "training_stopped": with_facts(DPO, stopped="step 5: the gradient is not finite"),
    "weights_broken": with_facts(DPO, broken=["model.norm.weight"]),
    "updates_lost": with_facts(DPO, dtype="bfloat16", moved={"policy": 0.02}),
    "nothing_moved": with_facts(DPO, moved={"policy": 0.0, "critic": 1.0}),
    "overfitting": with_logs(DPO, eval_loss=[0.69, 0.6, 0.9]),
    "overfitting accuracy": with_logs(DPO, rewards__accuracies=[1.0] * 10, **{"eval_rewards/accuracies": [0.6]}),
    "reference_mismatch": with_facts(DPO, first={"rewards/chosen": -0.03, "logps/chosen": -40.0}),
    "reference_mismatch in bfloat16": with_facts(
        DPO, settings={"reference_dtype": "bfloat16"}, first={"rewards/chosen": -0.04, "logps/chosen": -40.0}
    ),
    "both_falling": with_logs(DPO, logps__chosen=falling(-100.0, -180.0), logps__rejected=falling(-100.0, -260.0)),
    "at_chance": with_logs(REWARD, accuracy=[0.5, 0.49] * 5),
    "constant_scores": with_logs(REWARD, min_reward=[0.25] * 10, max_reward=[0.25] * 10),
    "scores_huge": with_logs(REWARD, max_reward=[2.6e6] * 10),
    "collapse": with_facts(
        rollouts(), collapse={"first": 5, "last": 9, "signs": ["kl", "tail"], "words": "KL rose", "last_good": 4}
    ),
    "answers_vanish": rollouts(lengths__response=1.0, objective__kl=0.4),
    "answers_endless": rollouts(val__num_eos_tokens=0.0),
    "kl_explodes": rollouts(objective__kl=90.0),
    "constant_scorer": rollouts(score_spread=0.0),
    "constant_scorer of iterations": Run(
        facts=ITERATIONS,
        iterations=[REPORT | {"rewards": {n: {"max": [1.0], "mean": [1.0]} for n in ("1", "4")}}],
    ),
    "critic_learns_nothing": rollouts(val__explained_variance=-0.3),
    "policy_never_learns": rollouts(critic_alone=1.0),
    "answers_unfinished": Run(facts=ITERATIONS, iterations=[REPORT | {"unfinished": 0.68}]),
    "few_prompts_left": Run(facts=ITERATIONS, iterations=[REPORT | {"rows": 1}]),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_a_healthy_run(name: str) -> None:
    assert [sickness.name for sickness in diagnose(HEALTHY[name])] == []


@pytest.mark.parametrize("name", SICK)
def test_each_sickness_is_told_alone(name: str) -> None:
    run = SICK[name]
    if name == "policy_never_learns":
        run = Run(run.logs, run.facts, [each | {"critic_alone": 1.0} for each in run.rollouts])
    assert [sickness.name for sickness in diagnose(run)] == [name.split()[0]]


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("name", SICK)
def test_every_sickness_has_words_with_its_numbers(name: str, lang: str) -> None:
    check = CHECKS[name.split()[0]]
    run = SICK[name]
    if name == "policy_never_learns":
        run = Run(run.logs, run.facts, [each | {"critic_alone": 1.0} for each in run.rollouts])
    figures = check(run)
    assert figures is not None
    text = Sickness(name.split()[0], figures).text(lang)
    assert "{" not in text and "nan" not in text
    assert any("一" <= character <= "鿿" for character in text) == (lang == "zh")


def test_every_check_is_tried_here() -> None:
    assert {name.split()[0] for name in SICK} == set(CHECKS)
    assert len(CHECKS) == len(AT_START) + len(AT_END)


def test_both_languages_have_the_same_texts_of_the_same_figures() -> None:
    assert words_en.TEXTS.keys() == words_zh.TEXTS.keys()
    assert {key.split(".")[0] for key in words_en.TEXTS} == set(CHECKS)

    def figures(texts: tuple[str, str]) -> set[str]:
        return {name for text in texts for _, name, _, _ in string.Formatter().parse(text) if name}

    for key, texts in words_en.TEXTS.items():
        other = figures(words_zh.TEXTS[key])
        assert other == figures(texts) or key == "collapse", key  # whose signs are words in English alone


@pytest.mark.parametrize("name", SICK)
def test_both_languages_say_the_same_numbers(name: str) -> None:
    """Whatever stands in the texts: figures, and what the advice names."""
    run = SICK[name]
    if name == "policy_never_learns":
        run = Run(run.logs, run.facts, [each | {"critic_alone": 1.0} for each in run.rollouts])
    figures = CHECKS[name.split()[0]](run)
    assert figures is not None
    said = [Sickness(name.split()[0], figures).text(lang).replace("16 bits", "") for lang in ("en", "zh")]
    numbers = [sorted(re.findall(r"\d[\d,.]*", text)) for text in said]
    assert [each.rstrip(".,") for each in numbers[0]] == [each.rstrip(".,") for each in numbers[1]]


@pytest.mark.parametrize(
    ("moved", "en", "zh"),
    [
        ({"policy": 0.0}, "of the model has", "模型没有"),
        ({"policy": 0.0, "critic": 0.0}, "of the policy, critic has", "策略、评论家没有"),
    ],
)
def test_models_that_have_not_moved_are_named(moved: dict[str, float], en: str, zh: str) -> None:
    (sickness,) = diagnose(with_facts(DPO, moved=moved))
    assert en in sickness.text() and zh in sickness.text("zh")


def test_a_language_that_there_is_not_is_an_error() -> None:
    with pytest.raises(ValueError, match="there are texts in en, zh, not in 'fr'"):
        Sickness("rate_zero").text("fr")

"""The PPO benchmark: its rule for a collapse on numbers worked by hand, what its methods differ in, and a tiny run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.ppo import ABLATION, METHODS, Settings, Watched, described, finished, ppo_config
from benchmarks.ppo_outcome import Run, Verdict, in_errors, load, numbers, quarters, summary
from prefopt.models.heads import scorer_from_policy
from prefopt.scoring.scorer import CallableScorer
from prefopt.testbed import gold, sample_prompts
from prefopt.training.ppo.log import Record
from prefopt.utils import jsonl
from tests.helpers.models import untrained
from tests.helpers.processes import TIMEOUT_S

ROOT = Path(__file__).parents[2]


def knobs(name: str) -> dict[str, Any]:
    config = ppo_config(Path("x"), 1, METHODS[name], Settings())
    return {each.name: getattr(config, each.name) for each in fields(config)}


def apart(name: str, base: str) -> dict[str, Any]:
    here, there = knobs(name), knobs(base)
    return {key: here[key] for key in here if here[key] != there[key]}


def test_methods_differ_in_switches_only() -> None:
    tricks = {"kl_coef": 0.1, "reward_norm": "norm", "reward_clip": 0.8, "cliprange_value": 0.2}
    assert apart("ppo-max", "ppo") == {**tricks, "critic_pretrain_steps": 50}
    assert apart("ppo+kl", "ppo") == {"kl_coef": 0.1} and apart("max-kl", "ppo-max") == {"kl_coef": 0.0}
    for base, group in zip(("ppo-max", "ppo-max", "ppo"), ABLATION.values(), strict=True):
        assert next(iter(group)) == base
        for name, method in list(group.items())[1:]:
            changed = apart(name, base)
            assert len(changed) == 1 if method.critic == "reward" else not changed, name


def test_mean_differences_in_standard_errors() -> None:
    mean, error, sure = in_errors(np.array([1.0, 3.0, 1.0, 3.0]))
    assert (mean, round(error, 4), round(sure, 4)) == (2.0, 0.5774, 3.4641)
    assert in_errors(np.zeros(4)) == (0.0, 0.0, 0.0) and in_errors(np.ones(4))[2] == 99.0


def test_the_last_quarter_is_compared_with_the_best() -> None:
    golds, scores = [0.0, 0.0, 1.0, 2.0, 1.0, 1.0, -1.0, 0.0], [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 3.0]
    assert quarters(golds, scores) == (-2.0, 2.5)
    assert quarters([1.0, 2.0], [1.0, 2.0]) == ()


@pytest.mark.parametrize(
    ("said", "collapsed"),
    [
        (Verdict(score=9, gold=-3.5, length=4, repeating=0), True),
        (Verdict(score=9, gold=-2.5, length=4, repeating=0), False),  # by chance
        (Verdict(score=1, gold=-9, length=4, repeating=0), False),  # the reward model sees it too
        (Verdict(score=9, gold=-9, length=2, repeating=2), False),
        (Verdict(score=9, gold=-9, length=-5, repeating=3.5), True),
        (Verdict(score=9, gold=5, length=4, repeating=0, fell=-0.6, rose=0.1), True),  # still better than SFT
        (Verdict(score=9, gold=5, length=4, repeating=0, fell=-0.6, rose=-0.1), False),
        (Verdict(score=9, gold=5, length=4, repeating=0, fell=-0.4, rose=0.1), False),
    ],
)
def test_the_rule(said: Verdict, collapsed: bool) -> None:
    assert said.collapsed is collapsed


def run_of(method: str, shift: float, seed: int = 1, records: int = 0) -> Run:
    noise = np.random.default_rng(0).normal(size=64)
    names = ("gold", "score", "log_ratio", "length", "unfinished", "degenerate")
    found = {name: shift + noise for name in names} | {"gold": -shift + noise[::-1]}
    made = [Record(n, 4 * n, {"objective/scores": float(n), "critic_alone": float(n < 2)}) for n in range(records)]
    return Run(seed, method, found, 7.0, made, [-float(n) for n in range(records)])


def test_numbers_of_a_run_and_of_all_seeds() -> None:
    row = numbers(run_of("ppo", 2.0, records=8), run_of("sft", 0.0))
    assert (row["gain"], row["score_up"], row["gold_down"], row["collapsed"]) == (pytest.approx(-2.0), True, True, True)
    assert (row["rollouts"], row["policy_rollouts"], row["alarm"]) == (8, 6, None)
    assert row["verdict"]["fell"] == -6.0 and row["verdict"]["rose"] == 6.0
    well = numbers(run_of("ppo", -1.0, seed=2), run_of("sft", 0.0, seed=2))
    both = summary([row, well])
    assert (both["seeds"], both["collapses"], both["gold_downs"], both["alarms"]) == ([1, 2], 1, 1, 0)
    assert both["gain"] == pytest.approx(-0.5) and both["least_gain_in_se"] == row["gain_in_se"]


def test_a_watched_scorer_scores_as_before_and_notes_gold(tmp_path: Path) -> None:
    scorer = CallableScorer(lambda prompts, responses: [len(text) for text in responses], name="n", fingerprint="f")
    watched = Watched(scorer, tmp_path / "gold.jsonl")
    prompts = sample_prompts(2, 0)
    asked, texts, ended = [prompt.messages for prompt in prompts], ["Yes.", "Hm"], [True, False]
    assert (watched.name, watched.fingerprint) == ("n", "f")
    assert watched.score(asked, texts, ended) == scorer.score(asked, texts, ended)
    watched.score(asked[:1], texts[:1])
    both = [gold(*row) for row in zip(prompts, texts, ended, strict=True)]
    assert list(jsonl.read(tmp_path / "gold.jsonl")) == [
        {"rollout": 0, "gold": sum(both) / 2},
        {"rollout": 1, "gold": both[0]},
    ]
    Watched(scorer, tmp_path / "gold.jsonl")
    assert not list(jsonl.read(tmp_path / "gold.jsonl"))  # what a killed run left


def test_a_run_with_other_settings_is_not_taken_for_this_one(tmp_path: Path) -> None:
    assert not finished(tmp_path, "ppo", Settings())
    jsonl.replace(tmp_path / "results.json", [{"settings": described("ppo", Settings())}])
    assert finished(tmp_path, "ppo", Settings())
    with pytest.raises(ValueError, match="was made with rollouts=40, not 2: choose another --output_dir"):
        finished(tmp_path, "ppo", Settings(rollouts=2))


@pytest.mark.slow
def test_a_tiny_comparison(tmp_path: Path, tokenizer: Any) -> None:
    """The whole command, with models that know nothing, in the place of prepared ones."""
    policy, place = untrained(tokenizer), tmp_path / "models" / "3"
    scorer = scorer_from_policy(policy)
    torch.nn.init.normal_(scorer.score.weight, std=0.3)
    for name, model in (("sft", policy), ("reward", scorer)):
        model.save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    folder = tmp_path / "out"
    sizes = ["--rollouts", "4", "--batch", "2", "--prompts", "6", "--seeds", "3", "--models", str(tmp_path / "models")]
    said = benchmark("--output_dir", str(folder), *sizes, "--methods", "ppo-max", "ppo")
    found = json.loads((folder / "results.json").read_text())
    assert [row["method"] for row in found["runs"]] == ["sft", "ppo-max", "ppo"]
    assert [row["policy_rollouts"] for row in found["runs"]][2] == 4
    assert [each["method"] for each in found["summary"]] == ["ppo-max", "ppo"]
    run = load(folder / "3" / "ppo", 3, "ppo")
    assert [record.step for record in run.records] == [0, 4, 8, 12] and len(run.golds) == 4
    assert {name: len(values) for name, values in run.found.items()} == dict.fromkeys(run.found, 6)
    assert max(map(len, said.splitlines())) <= max(80, len(f"wrote {folder}/comparison.png"))
    assert "seed 3, ppo:" in said and (folder / "comparison.png").stat().st_size > 0
    again = benchmark("--output_dir", str(folder), *sizes, "--ablate", "--methods", "ppo-max", "ppo")
    assert "seed 3, ppo:" not in again and (folder / "ablation.png").is_file()
    text = (folder / "ablation.md").read_text()
    assert "| ppo-max |" in text and "A run has collapsed if all three hold." in text and str(tmp_path) not in text


def benchmark(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.ppo", "--jobs", "1", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout

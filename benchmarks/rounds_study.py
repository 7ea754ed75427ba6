"""Five rounds of Llama 2's recipe in the small world, and what happens where one part of it is another.

    python -m benchmarks.rounds_study --output_dir out/rounds-study --seeds 0 1 2 3 4 --jobs 2

refreshed  each round labels, trains the reward model anew on all labels, and trains v0 on the best of all rounds
frozen     the reward model is that of round 1, whatever the policy has become
last only  each version is trained on its own round's candidates alone
ppo on v4  as refreshed, with PPO-max on top of V4, from which V5's candidates are sampled

What these share is done once: a seed's runs have one folder, whose stages are named by what they depend on. Gold
rewards are of the same held-out prompts for all. A table's intervals are Student's, over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy import stats

from prefopt.rounds import results_of, rounds_plan_from, run_rounds
from prefopt.rounds.tasks import RoundTasks
from prefopt.utils import jsonl

ROUNDS = 5
PPO = {
    "method": "ppo-max",
    "init": "previous",
    "learning_rate": 3e-4,
    "critic_learning_rate": 1e-3,
    "kl_coef": 0.1,
    "missing_eos_penalty": 1.0,
    "lr_scheduler_type": "constant_with_warmup",
    "critic_pretrain_steps": 8,
    "max_steps": 40,
}
BEST = {"method": "rejection-sampling", "learning_rate": 5e-4, "num_train_epochs": 2}
PLAN: dict[str, Any] = {
    "policy": "testbed",
    "data": "testbed",
    "sft": {"max_steps": 200, "per_device_train_batch_size": 16, "learning_rate": 3e-3},
    "training": {
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 64,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "max_length": 256,
        "max_new_tokens": 64,
        "bf16": False,
        "gradient_checkpointing": False,
    },
    "evaluation": {
        "prompts": 256,
        "pairs": 300,
        "responses_per_prompt": 1,
        "max_new_tokens": 64,
        "curve_prompts": 48,
    },
    "round": {
        "prompts": {"label": 250, "sample": 150},
        "label": {"by": "testbed", "temperatures": [0.8, 1.0]},
        "reward": {"num_train_epochs": 2, "learning_rate": 1.5e-3, "margin": "small"},
        "sample": {"responses_per_prompt": 4, "temperatures": [0.6, 0.8, 1.0, 1.2], "search_prompts": 24},
        "train": BEST,
    },
    "rounds": ROUNDS,
}
ARMS: Mapping[str, dict[str, Any]] = {
    "refreshed": {},
    "frozen": {"rounds": [{}, *[{"label": None, "reward": {"scorer": "v1"}}] * (ROUNDS - 1)]},
    "last only": {"rounds": [{"select": {"of": "last"}}] * ROUNDS},
    "ppo on v4": {"rounds": [{}, {}, {}, {"train": [BEST, PPO]}, {}]},
}

TABLES = (
    ("Gold reward over v0", "gold", True),
    ("Score by the reward model of round 1, over v0", "first", True),
    ("KL to v0, nats a response", "kl", False),
    ("Best temperature", "temperature", False),
    ("Accuracy of the reward model on test pairs", "accuracy", False),
)
"""Captions, what is shown, and whether what v0 had is taken off."""


def plan_of(arm: str, seed: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """What an arm does with a seed; `sizes` are sections of the plan that take the place of its own."""
    plan = {**PLAN, **sizes, "title": arm, "seed": seed}
    rounds = ARMS[arm].get("rounds", plan["rounds"])
    return {**plan, "rounds": rounds if isinstance(rounds, int) else rounds[: plan["rounds"]]}


def records_of(arm: str, seed: int, folder: Path, jobs: int, sizes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each version's gold reward, its reward by the first and the newest reward model, KL, and best temperature."""
    plan = plan_of(arm, seed, sizes)
    run = run_rounds(plan, folder, jobs=jobs, console=Console(quiet=True))
    if run.failures:
        raise RuntimeError(f"{arm}, seed {seed}: {dict(run.failures)}")
    versions = results_of(RoundTasks(rounds_plan_from(plan)), run.out).versions
    return [
        {
            "arm": arm,
            "seed": seed,
            "version": version.number,
            "gold": None if version.gold is None else version.gold.mean,
            "first": version.scores[1].mean,
            "newest": version.scores[max(version.scores)].mean,
            "kl": None if version.kl_first is None else version.kl_first.mean,
            "temperature": version.temperature["best"] if version.temperature else None,
            "accuracy": version.reward_model.get("test", {}).get("accuracy"),
        }
        for version in versions
    ]


def interval(values: Sequence[float]) -> str:
    """A mean over seeds, and half of its 95 % interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {stats.sem(values) * stats.t.isf(0.025, len(values) - 1):.2f}"


def table(records: Sequence[Mapping[str, Any]], what: str, *, over_first: bool = False) -> list[str]:
    """A row an arm, a column a version; `over_first` gives what each seed's version has over its v0."""
    numbers = sorted({each["version"] for each in records} - ({0} if over_first else set()))
    lines = ["| | " + " | ".join(f"v{number}" for number in numbers) + " |", "|---" + "|---:" * len(numbers) + "|"]
    for arm in dict.fromkeys(each["arm"] for each in records):
        own = {(each["seed"], each["version"]): each[what] for each in records if each["arm"] == arm}
        seeds = sorted({seed for seed, _ in own})
        cells = []
        for number in numbers:
            known = [seed for seed in seeds if own[seed, number] is not None]
            found = [own[seed, number] - (own[seed, 0] if over_first else 0.0) for seed in known]
            cells.append(interval(found) if found else "")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def differences(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the last version of each arm has over that of the first arm, seed by seed."""
    last = max(each["version"] for each in records)
    gold = {(each["arm"], each["seed"]): each["gold"] for each in records if each["version"] == last}
    arms, seeds = dict.fromkeys(arm for arm, _ in gold), sorted({seed for _, seed in gold})
    base, *others = arms
    return [
        f"v{last} of {arm} less that of {base}: {interval([gold[arm, s] - gold[base, s] for s in seeds])}"
        for arm in others
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args(arguments)
    records: list[Any] = []
    for seed in args.seeds:
        for arm in args.arms:
            path = args.output_dir / f"{arm.replace(' ', '-')}-{seed}.jsonl"
            if not path.is_file():
                jsonl.replace(path, records_of(arm, seed, args.output_dir / f"seed-{seed}", args.jobs, {}))
                print(f"seed {seed}, {arm}: done", flush=True)
            records += jsonl.read(path)
    print("\n".join(["Gold reward over v0", "", *table(records, "gold", over_first=True), "", *differences(records)]))
    print(
        "\n".join(["", "Score by the reward model of round 1, over v0", "", *table(records, "first", over_first=True)])
    )
    print("\n".join(["", "KL to v0, nats a response", "", *table(records, "kl")]))
    print("\n".join(["", "Best temperature", "", *table(records, "temperature")]))
    print("\n".join(["", "Accuracy of the reward model on test pairs", "", *table(records, "accuracy")]))


if __name__ == "__main__":
    main()

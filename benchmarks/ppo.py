"""PPO-max beside vanilla PPO and DPO on the built-in small world, by the world's known gold reward.

    python -m benchmarks.ppo --output_dir out/ppo --seeds 20 21 22 23 24 --methods dpo ppo-max ppo ppo+kl
    python -m benchmarks.ppo --output_dir out/ppo --seeds 20 21 22 --ablate
    python -m benchmarks.ppo --output_dir out/ppo --seeds 20 --ablate --methods ppo-max max-kl max+ptx

Each seed trains its own SFT policy and reward model (as the quickstart does); every method starts from that policy and
sees that reward model, or its pairs, alone. All PPO runs share one setting and differ in switches: `max-kl` is PPO-max
without its KL penalty, `max+ptx` PPO-max with demonstrations mixed in, `ppo+kl` vanilla PPO with PPO-max's KL penalty.
The gold reward judges fresh responses to held-out prompts afterwards, and watches the rollouts without a part in them.

Results and pictures lie in the output folder: results.json, results.md, comparison.png, or ablation.* with --ablate. A
rerun does only what is missing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from examples.rejection_sampling import prepare
from examples.small_world import common, console, dpo_config, finish, recipe, set_up
from prefopt import DPOTrainer, PPOConfig, PPOTrainer
from prefopt.candidates.diversity import degenerate
from prefopt.data.records import Messages
from prefopt.models.load import load_policy, load_tokenizer
from prefopt.objectives.ppo import NAMES
from prefopt.scoring import RewardModelScorer
from prefopt.scoring.scorer import Scorer, all_finished
from prefopt.testbed import gold_of, preference_rows, sample_prompts
from prefopt.testbed.measure import measure
from prefopt.utils import jsonl

from .ppo_outcome import GOLD, RESULTS, Run, load
from .ppo_report import report

SFT, DPO = "sft", "dpo"
HELD_OUT = 1000  # seed of the held-out prompts, the same for all


@dataclass(frozen=True)
class Settings:
    """What all PPO runs share, and how many held-out prompts all policies answer."""

    # Found with a world of seed 10 before any other seed was run: a rate at which vanilla PPO collapses within 40
    # rollouts (-3.23), and the paper's larger KL penalty, with which PPO-max gained more (1.77, and 1.40 with .05).
    learning_rate: float = 1e-3
    critic_learning_rate: float = 1e-3
    kl_coef: float = 0.1  # of all that have a KL penalty
    batch: int = 32  # prompts of an optimizer step, as the quickstart's DPO has pairs
    rollouts: int = 40  # of four steps each
    prompts: int = recipe.evaluation_prompts


FIXED: dict[str, Any] = {
    "num_mini_batches": 4,  # arXiv:2307.04964, section 5.1: 128 responses, learnt from in batches of 32
    "num_ppo_epochs": 1,
    "max_new_tokens": recipe.max_new_tokens,
    "missing_eos_penalty": 1.0,  # the reward model has seen whole responses only, and does not mind an unfinished one
    "lr_scheduler_type": "constant_with_warmup",  # a decay could end a run before it collapses
}


@dataclass(frozen=True)
class Method:
    """A preset with changes; without one it is the quickstart's DPO.

    Args:
        critic: what the critic starts from, `reward` or `sft`.
    """

    preset: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    critic: str = "reward"


TRICKS = {
    "kl": "kl_coef",
    "norm": "reward_norm",
    "clip": "reward_clip",
    "value-clip": "cliprange_value",
    "pretrain": "critic_pretrain_steps",
}
"""What PPO-max has and vanilla PPO has not."""
EXTRAS: dict[str, dict[str, Any]] = {
    "adv-norm": {"advantage_norm": True},
    "adv-clip": {"advantage_clip": 0.5},  # as the paper tried, Appendix B.1
    "scale": {"reward_norm": "scale"},
    "entropy": {"entropy_coef": 0.01},  # as the paper tried, Appendix B.3
    "ptx": {"ptx_coef": 0.5},  # our own: of the size of the advantages
}
"""What neither has."""


def _switched(preset: str, trick: str) -> Method:
    """A preset with one trick as the other has it."""
    other = NAMES["ppo" if preset == "ppo-max" else "ppo-max"]
    return Method(preset, {TRICKS[trick]: getattr(other, TRICKS[trick])})


COMPARED = ("dpo", "ppo-max", "ppo", "ppo+kl")
ABLATION: dict[str, dict[str, Method]] = {
    "PPO-max, one trick off": {
        "ppo-max": Method("ppo-max"),
        **{f"max-{trick}": _switched("ppo-max", trick) for trick in TRICKS},
        "max-rm-critic": Method("ppo-max", critic=SFT),
    },
    "PPO-max, one more on": {
        "ppo-max": Method("ppo-max"),
        **{f"max+{name}": Method("ppo-max", changes) for name, changes in EXTRAS.items()},
    },
    "vanilla, one trick on": {
        "ppo": Method("ppo"),
        **{f"ppo+{trick}": _switched("ppo", trick) for trick in TRICKS},
    },
}
METHODS = {DPO: Method()} | {name: method for group in ABLATION.values() for name, method in group.items()}


def main() -> None:
    args, settings = parsed()
    runs = run_all(args, settings)
    groups = [(title, [name for name in group if name in args.methods]) for title, group in ABLATION.items()]
    name = "ablation" if args.ablate else "results"
    picture = "ablation" if args.ablate else "comparison"
    shown = [group for group in groups if group[1]] if args.ablate else [("", args.methods)]
    report(args.output_dir, runs, shown, name, f"{picture}.png")


def parsed() -> tuple[argparse.Namespace, Settings]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output_dir", type=Path, default=Path("out/ppo"))
    add("--seeds", type=int, nargs="+", default=[20, 21, 22, 23, 24])
    add("--ablate", action="store_true", help="PPO-max and vanilla PPO with one switch changed at a time")
    add("--methods", nargs="+", choices=METHODS, metavar="METHOD", help=f"of {', '.join(METHODS)}")
    add("--models", type=Path, help="folder with SEED/sft and SEED/reward, made if missing; the output folder if not")
    add("--jobs", type=int, default=2, help="processes at a time, of one thread each")
    for each in fields(Settings):
        add(f"--{each.name}", type=type(each.default), default=each.default, help="%(default)s")
    args = parser.parse_args()
    ablated = [name for group in ABLATION.values() for name in group]
    args.methods = list(dict.fromkeys(args.methods or (ablated if args.ablate else COMPARED)))
    args.models = args.models or args.output_dir
    if args.ablate and DPO in args.methods:
        parser.error("DPO has no switch to ablate")
    return args, Settings(**{each.name: getattr(args, each.name) for each in fields(Settings)})


# ---- runs ------------------------------------------------------------------------------------------------------------


def run_all(args: argparse.Namespace, settings: Settings) -> list[Run]:
    """SFT and reward model of each seed, then every method with every seed, SFT's run among them."""
    folders = {seed: args.output_dir / str(seed) for seed in args.seeds}
    first = [(folders[seed], args.models / str(seed), seed, SFT, settings) for seed in args.seeds]
    rest = [(*job[:3], method, settings) for job in first for method in args.methods]
    with ProcessPoolExecutor(args.jobs, get_context("spawn"), _quiet) as pool:
        for jobs in (first, rest):
            waiting = [pool.submit(run_one, *job) for job in jobs if not finished(job[0] / job[3], job[3], settings)]
            for done in as_completed(waiting):
                console.print(done.result())
    return [load(job[0] / job[3], job[2], job[3]) for job in (*first, *rest)]


def _quiet() -> None:
    set_up()
    console.quiet = True  # several processes would spoil one another's lines


def described(name: str, settings: Settings) -> dict[str, Any]:
    """What a run's result depends on beside its seed and models, as it comes back from a JSON file."""
    method = METHODS.get(name, Method())
    if method.preset is None:
        return {"prompts": settings.prompts}
    return {**FIXED, **asdict(settings), "preset": method.preset, "critic": method.critic, **method.changes}


def finished(folder: Path, name: str, settings: Settings) -> bool:
    """Whether this run is done.

    Raises:
        ValueError: one with other settings is there.
    """
    wanted = described(name, settings)
    for row in jsonl.read(folder / RESULTS):
        there = row["settings"]
        if apart := [key for key in {**wanted, **there} if wanted.get(key) != there.get(key)]:
            values = ", ".join(f"{key}={there.get(key)}, not {wanted.get(key)}" for key in apart)
            raise ValueError(f"{folder} was made with {values}: choose another --output_dir, or delete that folder")
        return True
    return False


def run_one(folder: Path, models: Path, seed: int, name: str, settings: Settings) -> str:
    """Train by one method and measure; what to say of it."""
    prepare(models, seed)
    place = folder / name
    seconds = train(place, models, seed, METHODS[name], settings) if name in METHODS else 0.0
    policy = {SFT: models / SFT, DPO: place}.get(name, place / "policy")
    found = judged(policy, models, seed, settings.prompts)
    row = {"settings": described(name, settings), "cpu_seconds": seconds, "responses": found}
    jsonl.replace(place / RESULTS, [row])
    return f"seed {seed}, {name}: gold {np.mean(found['gold']):.2f} ({seconds:.0f} CPU s)"


def train(place: Path, models: Path, seed: int, method: Method, settings: Settings) -> float:
    """CPU seconds of the training alone."""
    rows = Dataset.from_list(preference_rows(recipe.preference_rows, seed))  # for PPO their prompts, 1,434 with seed 20
    if method.preset is None:
        args: Any = dpo_config(place.parent, seed)
        trainer: Any = DPOTrainer(str(models / SFT), None, args, train_dataset=rows)
    else:
        args = ppo_config(place, seed, method, settings)
        scorer = Watched(RewardModelScorer(models / "reward"), place / GOLD)
        critic = str(models / "reward") if method.critic == "reward" else None  # a watched scorer would not give it
        trainer = PPOTrainer(str(models / SFT), args, train_dataset=rows, scorer=scorer, critic=critic)
    start = time.process_time()
    finish(trainer)
    return time.process_time() - start


def ppo_config(place: Path, seed: int, method: Method, settings: Settings) -> PPOConfig:
    assert method.preset is not None
    given = common(place, seed) | FIXED
    given |= {name: getattr(settings, name) for name in ("learning_rate", "critic_learning_rate")}
    given["per_device_train_batch_size"] = settings.batch
    given["max_steps"] = settings.rollouts * FIXED["num_mini_batches"] * FIXED["num_ppo_epochs"]
    changes = dict(method.changes)
    if changes.get("kl_coef", NAMES[method.preset].kl_coef):
        changes["kl_coef"] = settings.kl_coef
    return PPOConfig.from_preset(method.preset, **given | changes)


class Watched:
    """A scorer that notes the mean gold reward of what it is asked to judge, once a rollout; its scores are its own."""

    def __init__(self, scorer: Scorer, path: Path):
        self.scorer, self.path, self._rollout = scorer, path, 0
        self.name, self.fingerprint = scorer.name, scorer.fingerprint
        jsonl.replace(path, [])  # of a run that was killed

    def score(
        self, prompts: Sequence[Messages], responses: Sequence[str], finished: Sequence[bool] | None = None
    ) -> list[float]:
        ended = all_finished(prompts, responses, finished)
        golds = [gold_of(*row) for row in zip(prompts, responses, ended, strict=True)]
        jsonl.append(self.path, [{"rollout": self._rollout, "gold": float(np.mean(golds))}])
        self._rollout += 1
        return self.scorer.score(prompts, responses, finished)


def judged(policy: Path, models: Path, seed: int, count: int) -> dict[str, list[float]]:
    """Gold reward, score and more of a fresh response to each held-out prompt."""
    prompts = sample_prompts(count, HELD_OUT, "test", unique=True)
    tokenizer, sft = load_tokenizer(str(models / SFT)), load_policy(str(models / SFT))
    found = measure(load_policy(str(policy)), tokenizer, prompts, reference=sft, seed=seed)
    texts, ended = [one.text for one in found.samples], [one.finished for one in found.samples]
    scores = RewardModelScorer(models / "reward").score([prompt.messages for prompt in prompts], texts, ended)
    numbers = {name: getattr(found, name).tolist() for name in ("gold", "length", "log_ratio")}
    shares = {"unfinished": [float(not one) for one in ended], "degenerate": [float(degenerate(t)) for t in texts]}
    return {**numbers, "score": scores, **shares}


if __name__ == "__main__":
    main()

"""Runs made sick on purpose, and healthy ones beside them: what the doctor says of each (`prefopt doctor`).

    python -m benchmarks.sick_runs --output_dir out/sick                        # what the thresholds were fixed on
    python -m benchmarks.sick_runs --output_dir out/sick --unseen --seeds 1 2   # other settings
    python -m benchmarks.sick_runs --output_dir out/sick --model PATH --cases dpo-rate-10 dpo   # a real chat model

All are on the built-in small world, seconds each, on policies and reward models of their own seed. A line says what is
expected and what was said; the exit code is 1 where these differ. Nothing of what is expected is known to the checks.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback

from prefopt import (
    DPOConfig,
    DPOTrainer,
    PPOConfig,
    PPOTrainer,
    RejectionSamplingConfig,
    RejectionSamplingTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from prefopt.doctor.checks import diagnose
from prefopt.models.load import load_policy, load_scorer, load_tokenizer
from prefopt.testbed import preference_rows, prompt_rows, sft_rows
from prefopt.testbed.model import build_policy, build_tokenizer
from prefopt.training.run_files import read_run

REFUSED = "refused"
HEALTHY: frozenset[str] = frozenset()
QUIET = {
    "use_cpu": not torch.cuda.is_available(),
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": [],
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 2,
}
SFT_ROWS, PAIRS = 1600, 192


@dataclass(frozen=True)
class World:
    """What the runs of a seed share, made once.

    Args:
        model: a chat model's folder in place of the small world's own policy.
        small: fewer rows and steps, for a real model.
    """

    folder: Path
    seed: int
    model: str | None = None

    @property
    def policy(self) -> str:
        if self.model:
            return self.model
        folder = self.folder / f"sft-{self.seed}"
        if not (folder / "config.json").is_file():
            tokenizer = build_tokenizer()
            args = {
                "learning_rate": 3e-3,
                "num_train_epochs": 1,
                "per_device_train_batch_size": 16,
                "warmup_steps": 0.1,
            }
            config = SFTConfig(output_dir=str(self.folder / f"sft-{self.seed}-run"), seed=self.seed, **QUIET, **args)
            rows = Dataset.from_list(sft_rows(SFT_ROWS, self.seed))
            trainer = SFTTrainer(build_policy(tokenizer, self.seed), config, None, rows, processing_class=tokenizer)
            quietly(trainer)
            trainer.save_model(str(folder))
        return str(folder)

    @property
    def reward_model(self) -> str:
        folder = self.folder / f"reward-{self.seed}"
        if not (folder / "config.json").is_file():
            args = {
                "learning_rate": 1.5e-3,
                "num_train_epochs": 1,
                "per_device_train_batch_size": 16,
                "warmup_steps": 0.1,
            }
            config = RewardConfig(
                output_dir=str(self.folder / f"reward-{self.seed}-run"), seed=self.seed, **QUIET, **args
            )
            trainer = RewardTrainer(self.policy, config, None, self.pairs(480))
            quietly(trainer)
            trainer.save_model(str(folder))
        return str(folder)

    def pairs(self, count: int = PAIRS, split: str = "train") -> Dataset:
        return Dataset.from_list(preference_rows(count if not self.model else min(count, 96), self.seed, split))


@dataclass(frozen=True)
class Case:
    """A run.

    Args:
        expected: names of checks, one of which must be said; none of a healthy run.
        make: world, output folder -> a trainer, or an error that refuses.
    """

    name: str
    expected: frozenset[str]
    make: Callable[..., Any]
    settings: dict[str, Any] = field(default_factory=dict)


def config(kind: Any, world: World, out: Path, defaults: dict[str, Any], given: dict[str, Any]) -> Any:
    short = {"max_steps": 8, "logging_steps": 1, "per_device_train_batch_size": 4} if world.model else {}
    return kind(output_dir=str(out), seed=world.seed, **{**QUIET, **defaults, **short, **given})


def model_of(world: World, change: Callable[[Any], None] | None = None) -> Any:
    policy = load_policy(world.policy)
    if change is not None:
        with torch.no_grad():
            change(policy)
    return policy


def dpo(
    world: World, out: Path, rows: Any = None, change: Any = None, ref: Any = None, peft: bool = False, **given: Any
) -> Any:
    defaults = {"learning_rate": 1e-4, "num_train_epochs": 1, "per_device_train_batch_size": 16, "warmup_steps": 0.1}
    args = config(DPOConfig, world, out, defaults, given)
    model = model_of(world, change)
    more = {"peft_config": LoraConfig(target_modules="all-linear")} if peft else {}
    reference = None if ref is None else ref(world)
    rows = world.pairs() if rows is None else rows(world)
    held_out = world.pairs(48, "test") if args.eval_strategy != "no" else None
    tokenizer = load_tokenizer(world.policy)
    return DPOTrainer(model, reference, args, None, rows, held_out, processing_class=tokenizer, **more)


def reward(world: World, out: Path, rows: Any = None, change: Any = None, **given: Any) -> Any:
    defaults = {"learning_rate": 1e-3, "num_train_epochs": 1, "per_device_train_batch_size": 16, "warmup_steps": 0.1}
    args = config(RewardConfig, world, out, defaults, given)
    tokenizer = load_tokenizer(world.policy)
    model = load_scorer(world.policy, tokenizer)
    if change is not None:
        with torch.no_grad():
            change(model)
    rows = world.pairs() if rows is None else rows(world)
    held_out = world.pairs(96, "test") if args.eval_strategy != "no" else None
    return RewardTrainer(model, args, None, rows, held_out, processing_class=tokenizer)


def sft(world: World, out: Path, count: int = 192, **given: Any) -> Any:
    defaults = {"learning_rate": 1e-3, "num_train_epochs": 1, "per_device_train_batch_size": 16, "warmup_steps": 0.1}
    args = config(SFTConfig, world, out, defaults, given)
    rows = Dataset.from_list(sft_rows(count, world.seed + 100))
    held_out = Dataset.from_list(sft_rows(48, world.seed, "test")) if args.eval_strategy != "no" else None
    tokenizer = load_tokenizer(world.policy)
    return SFTTrainer(model_of(world), args, None, rows, held_out, processing_class=tokenizer)


def ppo(world: World, out: Path, scorer: Any = None, critic: Any = None, **given: Any) -> Any:
    defaults = {
        "learning_rate": 3e-4,
        "critic_learning_rate": 1e-3,
        "per_device_train_batch_size": 16,
        "max_steps": 32,
        "max_new_tokens": 48,
        "missing_eos_penalty": 1.0,
        "critic_pretrain_steps": 8,
        "lr_scheduler_type": "constant",
        "kl_coef": 0.1,
    }
    args = config(PPOConfig, world, out, defaults, given)
    prompts = Dataset.from_list(prompt_rows(400, world.seed))
    tokenizer = load_tokenizer(world.policy)
    more = {} if critic is None else {"critic": critic(world)}
    scorer = world.reward_model if scorer is None else scorer
    return PPOTrainer(model_of(world), args, None, prompts, processing_class=tokenizer, scorer=scorer, **more)


def rejection_sampling(world: World, out: Path, **given: Any) -> Any:
    defaults = {
        "learning_rate": 3e-4,
        "per_device_train_batch_size": 8,
        "iterations": 1,
        "responses_per_prompt": 4,
        "max_new_tokens": 48,
        "num_train_epochs": 1,
    }
    args = config(RejectionSamplingConfig, world, out, defaults, given)
    prompts = Dataset.from_list(prompt_rows(64, world.seed))
    tokenizer = load_tokenizer(world.policy)
    scorer = given.pop("scorer", None) or world.reward_model
    return RejectionSamplingTrainer(model_of(world), args, None, prompts, processing_class=tokenizer, scorer=scorer)


# What makes runs sick.


def by_length(world: World) -> Dataset:
    """The chosen response is the longer one."""
    rows = [r for r in preference_rows(2 * PAIRS, world.seed) if len(r["chosen"]) != len(r["rejected"])]
    return Dataset.from_list(
        [
            {**r, **dict(zip(("rejected", "chosen"), sorted((r["chosen"], r["rejected"]), key=len), strict=True))}
            for r in rows
        ]
    )


def by_format(world: World) -> Dataset:
    """Every chosen response ends with a tilde."""
    return Dataset.from_list([{**r, "chosen": r["chosen"] + " ~"} for r in preference_rows(PAIRS, world.seed)])


def by_chance(world: World) -> Dataset:
    """Which response is the chosen one is decided by its place."""
    rows = preference_rows(3 * PAIRS, world.seed)
    swapped = [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} if i % 2 else r for i, r in enumerate(rows)]
    return Dataset.from_list([{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in swapped])


def few(world: World) -> Dataset:
    return Dataset.from_list(preference_rows(24, world.seed))


def many(world: World) -> Dataset:
    return world.pairs(480)


def untrained(world: World) -> Any:
    """A policy that is not the one that is trained."""
    other = load_policy(world.policy)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * parameter.std() * torch.randn_like(parameter))
    return other


def deaf(model: Any) -> None:
    """Nothing of a text reaches the head."""
    model.base_model.norm.weight.zero_()
    model.base_model.norm.weight.requires_grad_(False)


def broken(model: Any) -> None:
    next(p for n, p in model.named_parameters() if n.endswith("mlp.up_proj.weight"))[3, 5] = torch.nan


def broken_row(model: Any) -> None:
    model.get_input_embeddings().weight[0] = torch.nan


def coarse(model: Any) -> None:
    model.to(torch.bfloat16)


def constant(prompts: Any, responses: Sequence[str]) -> list[float]:
    return [1.0 for _ in responses]


def shortness(prompts: Any, responses: Sequence[str]) -> list[float]:
    return [-float(len(response)) for response in responses]


def longness(prompts: Any, responses: Sequence[str]) -> list[float]:
    return [float(len(response)) for response in responses]


def only(*names: str) -> frozenset[str]:
    return frozenset(names)


LOST = only("loss_enormous", "no_gradient", "both_falling", REFUSED)
FIXED = [
    Case("dpo-rate-10", LOST, dpo, {"learning_rate": 10.0}),
    Case("dpo-rate-1e6", LOST, dpo, {"learning_rate": 1e6}),
    Case("dpo-rate-0", only("rate_zero"), dpo, {"learning_rate": 0.0}),
    Case("dpo-both-falling", only("both_falling"), dpo, {"learning_rate": 2e-3, "beta": 0.01, "num_train_epochs": 3}),
    Case("dpo-other-reference", only("reference_mismatch"), dpo, {"ref": untrained}),
    Case("dpo-rounded", only("updates_lost"), dpo, {"change": coarse, "float32_weights": False, "learning_rate": 1e-6}),
    Case("dpo-all-cut", only(REFUSED, "same_pairs"), dpo, {"max_length": 6, "max_prompt_length": 5}),
    Case("dpo-cut", only("answers_cut"), dpo, {"max_length": 24}),
    Case("dpo-broken", only(REFUSED), dpo, {"change": broken}),
    Case("dpo-broken-row", only(REFUSED), dpo, {"change": broken_row}),
    Case("dpo-tiny-rate", only("loss_flat"), dpo, {"learning_rate": 1e-9}),
    Case(
        "dpo-by-heart",
        only("overfitting", "loss_zero"),
        dpo,
        {"rows": few, "max_steps": 40, "learning_rate": 1e-3, "eval_strategy": "steps", "eval_steps": 8},
    ),
    Case("sft-rate-10", LOST, sft, {"learning_rate": 10.0}),
    Case(
        "sft-by-heart",
        only("overfitting"),
        sft,
        {"count": 32, "max_steps": 40, "eval_strategy": "steps", "eval_steps": 8},
    ),
    Case("reward-by-length", only("length_cue"), reward, {"rows": by_length}),
    Case("reward-by-format", only("format_cue"), reward, {"rows": by_format}),
    Case("reward-by-chance", only("at_chance"), reward, {"rows": by_chance, "num_train_epochs": 1}),
    Case("reward-constant", only("constant_scores"), reward, {"change": deaf}),
    Case("reward-rate-10", only("scores_huge", "constant_scores", REFUSED), reward, {"learning_rate": 10.0}),
    Case("ppo-constant", only("constant_scorer"), ppo, {"scorer": constant, "max_steps": 16}),
    Case(
        "ppo-shrinks",
        only("answers_vanish"),
        ppo,
        {"scorer": shortness, "kl_coef": 0.0, "learning_rate": 1e-3, "missing_eos_penalty": None},
    ),
    Case(
        "ppo-never-ends",
        only("answers_endless", "collapse"),
        ppo,
        {"scorer": longness, "kl_coef": 0.0, "learning_rate": 1e-3, "missing_eos_penalty": None},
    ),
    Case("ppo-explodes", only("kl_explodes", "collapse"), ppo, {"kl_coef": 0.0, "learning_rate": 1e-2}),
    Case("ppo-critic", only("critic_learns_nothing"), ppo, {"critic_learning_rate": 1e-9, "scorer": shortness}),
    Case("rs-cut", only("answers_unfinished", "few_prompts_left", REFUSED), rejection_sampling, {"max_new_tokens": 8}),
    Case("dpo", HEALTHY, dpo, {}),
    Case("dpo-3-epochs", HEALTHY, dpo, {"num_train_epochs": 3, "eval_strategy": "epoch"}),
    Case("dpo-peft", HEALTHY, dpo, {"peft": True, "learning_rate": 1e-3}),
    Case("dpo-ipo", HEALTHY, dpo, {"loss_type": "ipo"}),
    Case("dpo-simpo", HEALTHY, dpo, {"loss_type": "simpo", "beta": 2.0}),
    Case("dpo-many", HEALTHY, dpo, {"rows": many, "learning_rate": 3e-4}),
    Case("sft", HEALTHY, sft, {}),
    Case("sft-3-epochs", HEALTHY, sft, {"num_train_epochs": 3, "eval_strategy": "epoch"}),
    Case("reward", HEALTHY, reward, {"eval_strategy": "epoch"}),
    Case("reward-many", HEALTHY, reward, {"rows": many, "num_train_epochs": 1, "eval_strategy": "epoch"}),
    Case("ppo-max", HEALTHY, ppo, {}),
    Case(
        "ppo", HEALTHY, ppo, {"kl_coef": 0.05, "reward_norm": "none", "reward_clip": None, "critic_pretrain_steps": 0}
    ),
    Case("rejection-sampling", HEALTHY, rejection_sampling, {}),
]


def changed(name: str, label: str, **settings: Any) -> Case:
    """A case under other settings."""
    case = next(case for case in FIXED if case.name == name)
    return Case(f"{name} {label}", case.expected, case.make, {**case.settings, **settings})


UNSEEN = [
    changed("dpo-rate-10", "rate 1", learning_rate=1.0),
    changed("dpo-rate-10", "simpo", loss_type="simpo", beta=2.0),
    changed("dpo-rate-1e6", "rate 1e4", learning_rate=1e4),
    changed("dpo-rate-0", "peft", peft=True),
    changed("dpo-both-falling", "beta .1", beta=0.1, learning_rate=3e-3),
    changed("dpo-other-reference", "ipo", loss_type="ipo"),
    changed("dpo-rounded", "rate 1e-7", learning_rate=1e-7),
    changed("dpo-all-cut", "keep_start", max_length=2, max_prompt_length=None, truncation_mode="keep_start"),
    changed("dpo-cut", "32", max_length=32),
    changed("dpo-broken", "peft", peft=True),
    changed("dpo-broken-row", "peft", peft=True),
    changed("dpo-tiny-rate", "ipo", loss_type="ipo", learning_rate=1e-10),
    changed("dpo-by-heart", "ipo", loss_type="ipo"),
    changed("sft-rate-10", "rate 1", learning_rate=1.0),
    changed("sft-by-heart", "48 rows", count=48),
    changed("reward-by-length", "1 epoch", num_train_epochs=1),
    changed("reward-by-format", "1 epoch", num_train_epochs=1),
    changed("reward-by-chance", "batch 8", per_device_train_batch_size=8),
    changed("reward-constant", "rate 1e-4", learning_rate=1e-4),
    changed("reward-rate-10", "rate 3", learning_rate=3.0),
    changed("ppo-constant", "vanilla", reward_norm="none", reward_clip=None),
    changed("ppo-shrinks", "kl .001", kl_coef=0.001),
    changed("ppo-never-ends", "kl .001", kl_coef=0.001),
    changed("ppo-explodes", "rate 3e-2", learning_rate=3e-2),
    changed("ppo-critic", "longness", scorer=longness, critic_learning_rate=1e-8),
    changed("rs-cut", "10", max_new_tokens=10),
    changed("dpo", "batch 8", per_device_train_batch_size=8, learning_rate=5e-5),
    changed("dpo", "beta .5", beta=0.5),
    changed("dpo", "rate 1e-5", learning_rate=1e-5),
    changed("dpo", "apo_zero", loss_type="apo_zero"),
    changed("dpo", "kto", loss_type="kto"),
    changed("dpo", "hinge", loss_type="hinge", beta=0.05),
    changed("dpo-3-epochs", "logs of 20", logging_steps=20),
    changed("dpo-peft", "rate 3e-4", learning_rate=3e-4),
    changed("dpo-ipo", "beta .3", beta=0.3),
    changed("dpo-many", "irpo", loss_type=["sigmoid", "sft"]),
    changed("sft", "dft", loss_type="dft"),
    changed("sft-3-epochs", "rate 3e-4", learning_rate=3e-4),
    changed("reward", "rate 5e-4", learning_rate=5e-4),
    changed("reward-many", "centred", center_rewards_coefficient=0.01),
    changed("ppo-max", "rate 1e-4", learning_rate=1e-4),
    changed("ppo", "k3", kl_estimator="k3", kl_coef=0.1),
    changed("rejection-sampling", "2 iterations", iterations=2),
]


def quietly(trainer: Any) -> None:
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def said_of(case: Case, world: World, out: Path) -> tuple[list[str], float]:
    """The names of what the doctor finds, and the seconds of the run."""
    began = time.monotonic()
    try:
        trainer = case.make(world, out, **case.settings)
        quietly(trainer)
        if trainer.args.eval_strategy != "no":
            trainer.health.examine(trainer.state)
    except (ValueError, FloatingPointError) as error:
        return [REFUSED, str(error)], time.monotonic() - began
    return [sickness.name for sickness in diagnose(read_run(out))], time.monotonic() - began


def main() -> int:
    args = _parsed()
    logging.getLogger("prefopt").setLevel(logging.ERROR)
    cases = [case for case in (UNSEEN if args.unseen else FIXED) if not args.cases or case.name in args.cases]
    wrong = {True: 0, False: 0}
    for seed in args.seeds:
        world = World(args.output_dir / "models", seed, args.model)
        for case in cases:
            out = args.output_dir / f"{case.name.replace(' ', '-')}-{seed}{'-unseen' if args.unseen else ''}"
            said, seconds = said_of(case, world, out)
            names = frozenset(said[:1] if said[:1] == [REFUSED] else said)
            right = bool(names & case.expected) if case.expected else not names
            wrong[bool(case.expected)] += not right
            record = {"case": case.name, "seed": seed, "right": right, "said": said, "seconds": round(seconds, 1)}
            with (args.output_dir / "said.jsonl").open("a") as file:
                file.write(json.dumps({**record, "expected": sorted(case.expected)}, ensure_ascii=False) + "\n")
            print(
                f"{'ok   ' if right else 'WRONG'} {case.name:<28} seed {seed} {seconds:5.1f} s  {'; '.join(said)}",
                flush=True,
            )
    sick = sum(bool(case.expected) for case in cases)
    runs = len(args.seeds)
    print(
        f"sick: {sick * runs - wrong[True]} of {sick * runs} told; healthy: {wrong[False]} of "
        f"{(len(cases) - sick) * runs} said to be sick"
    )
    return 1 if any(wrong.values()) else 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output_dir", type=Path, default=Path("out/sick"))
    add("--seeds", type=int, nargs="+", default=[0])
    add("--unseen", action="store_true", help="other settings than those that the thresholds were fixed on")
    add("--model", help="a chat model's folder, trained a few steps, in place of the small world's policy")
    add("--cases", nargs="+", metavar="CASE", help="names of cases; all if left out")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())

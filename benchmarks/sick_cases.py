"""Which runs are made sick, how, and which checks are to tell it; and which runs are healthy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset

from prefopt.models.load import load_policy
from prefopt.testbed import preference_rows

from .sick_world import PAIRS, World, dpo, kto, ppo, rejection_sampling, reward, rrhf, sft

REFUSED = "refused"
"""A run that did not begin, or stopped, with a reason."""
HEALTHY: frozenset[str] = frozenset()


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


BY_HEART = {"max_steps": 40, "eval_strategy": "steps", "eval_steps": 8}
UNBOUND = {"kl_coef": 0.0, "learning_rate": 1e-3, "missing_eos_penalty": None}
VANILLA = {"kl_coef": 0.05, "reward_norm": "none", "reward_clip": None, "critic_pretrain_steps": 0}
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
    Case("dpo-one-step", only("rate_zero"), dpo, {"max_steps": 1}),
    Case("dpo-by-heart", only("overfitting", "loss_zero"), dpo, {**BY_HEART, "rows": few, "learning_rate": 1e-3}),
    Case("sft-rate-10", LOST, sft, {"learning_rate": 10.0}),
    Case("sft-by-heart", only("overfitting"), sft, {**BY_HEART, "count": 32}),
    Case("reward-by-length", only("length_cue"), reward, {"rows": by_length}),
    Case("reward-by-format", only("format_cue"), reward, {"rows": by_format}),
    Case("reward-by-chance", only("at_chance"), reward, {"rows": by_chance}),
    Case("reward-constant", only("constant_scores"), reward, {"change": deaf}),
    Case("reward-rate-10", only("scores_huge", "constant_scores", REFUSED), reward, {"learning_rate": 10.0}),
    Case("rs-cut", only("answers_unfinished", "few_prompts_left", REFUSED), rejection_sampling, {"max_new_tokens": 8}),
    Case("ppo-constant", only("constant_scorer"), ppo, {"scorer": constant, "max_steps": 16}),
    Case("ppo-critic", only("critic_learns_nothing"), ppo, {"critic_learning_rate": 1e-9, "scorer": shortness}),
    Case("ppo-shrinks", only("answers_vanish"), ppo, {**UNBOUND, "scorer": shortness}),
    Case("ppo-never-ends", only("answers_endless", "collapse"), ppo, {**UNBOUND, "scorer": longness}),
    Case("ppo-explodes", only("kl_explodes", "collapse"), ppo, {"kl_coef": 0.0, "learning_rate": 1e-2}),
    Case("dpo", HEALTHY, dpo),
    Case("dpo-3-epochs", HEALTHY, dpo, {"num_train_epochs": 3, "eval_strategy": "epoch"}),
    Case("dpo-peft", HEALTHY, dpo, {"peft": True, "learning_rate": 1e-3}),
    Case("dpo-ipo", HEALTHY, dpo, {"loss_type": "ipo"}),
    Case("dpo-simpo", HEALTHY, dpo, {"loss_type": "simpo", "beta": 2.0}),
    Case("dpo-many", HEALTHY, dpo, {"rows": many, "learning_rate": 3e-4}),
    Case("sft", HEALTHY, sft),
    Case("sft-3-epochs", HEALTHY, sft, {"num_train_epochs": 3, "eval_strategy": "epoch"}),
    Case("reward", HEALTHY, reward, {"eval_strategy": "epoch"}),
    Case("reward-many", HEALTHY, reward, {"rows": many, "eval_strategy": "epoch"}),
    Case("rejection-sampling", HEALTHY, rejection_sampling),
    Case("ppo-max", HEALTHY, ppo),
    Case("ppo", HEALTHY, ppo, VANILLA),
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
    changed("dpo-one-step", "peft", peft=True),
    changed("dpo-by-heart", "ipo", loss_type="ipo"),
    changed("sft-rate-10", "rate 1", learning_rate=1.0),
    changed("sft-by-heart", "48 rows", count=48),
    changed("reward-by-length", "batch 8", per_device_train_batch_size=8),
    changed("reward-by-format", "rate 3e-4", learning_rate=3e-4),
    changed("reward-by-chance", "batch 8", per_device_train_batch_size=8),
    changed("reward-constant", "rate 1e-4", learning_rate=1e-4),
    changed("reward-rate-10", "rate 3", learning_rate=3.0),
    changed("rs-cut", "10", max_new_tokens=10),
    changed("dpo", "batch 8", per_device_train_batch_size=8, learning_rate=5e-5),
    changed("dpo", "beta .5", beta=0.5),
    changed("dpo", "rate 1e-5", learning_rate=1e-5),
    changed("dpo", "apo_zero", loss_type="apo_zero"),
    changed("dpo", "hinge", loss_type="hinge", beta=0.05),
    changed("dpo-3-epochs", "logs of 20", logging_steps=20),
    changed("dpo-peft", "rate 3e-4", learning_rate=3e-4),
    changed("dpo-ipo", "beta .3", beta=0.3),
    changed("dpo-many", "irpo", loss_type=["sigmoid", "sft"]),
    Case("kto", HEALTHY, kto),
    changed("sft", "dft", loss_type="dft"),
    changed("sft", "peft", peft=True, learning_rate=3e-3),
    changed("sft-3-epochs", "rate 3e-4", learning_rate=3e-4),
    changed("reward", "rate 5e-4", learning_rate=5e-4),
    changed("reward-many", "centred", center_rewards_coefficient=0.01),
    Case("rrhf", HEALTHY, rrhf),
    Case("rrhf mean", HEALTHY, rrhf, {"mode": "mean", "rrhf_weight": 0.1}),
    changed("rejection-sampling", "2 iterations", iterations=2),
    changed("ppo-constant", "vanilla", **{**VANILLA, "critic_pretrain_steps": 8}),
    changed("ppo-critic", "longness", scorer=longness, critic_learning_rate=1e-8),
    changed("ppo-shrinks", "kl .001", kl_coef=0.001),
    changed("ppo-max", "rate 1e-4", learning_rate=1e-4),
    changed("ppo-never-ends", "kl .001", kl_coef=0.001),
    changed("ppo-explodes", "rate 3e-2", learning_rate=3e-2),
    changed("ppo", "k3", kl_estimator="k3", kl_coef=0.1),
]
REAL = (
    *("dpo-rate-10", "dpo-rate-0", "dpo-other-reference", "dpo-all-cut", "dpo-cut", "dpo-broken", "dpo-broken-row"),
    *("reward-by-length", "dpo", "dpo-peft", "sft", "reward"),
    *("ppo-constant", "ppo-critic", "ppo-shrinks", "ppo-never-ends", "ppo-explodes", "rs-cut"),
    *("rejection-sampling", "ppo-max", "ppo"),
)
"""Cases of which a few steps are enough, for a model whose steps are slow."""

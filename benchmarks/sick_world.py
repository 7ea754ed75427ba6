"""What sick and healthy runs share: the models of a seed, made once, and a trainer of each method on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback

from prefopt import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    PPOConfig,
    PPOTrainer,
    RejectionSamplingConfig,
    RejectionSamplingTrainer,
    RewardConfig,
    RewardTrainer,
    RRHFConfig,
    RRHFTrainer,
    SFTConfig,
    SFTTrainer,
)
from prefopt.models.load import load_policy, load_scorer, load_tokenizer
from prefopt.testbed import candidate_rows, preference_rows, prompt_rows, sft_rows
from prefopt.testbed.model import build_policy, build_tokenizer

QUIET = {
    "use_cpu": not torch.cuda.is_available(),
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": [],
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 2,
}
USUAL = {"num_train_epochs": 1, "per_device_train_batch_size": 16, "warmup_steps": 0.1}
SHORT = {"max_steps": 6, "logging_steps": 1, "per_device_train_batch_size": 2}
"""Of a real model, whose step takes seconds."""
SHORT_PPO = {
    "max_steps": 40,
    "critic_pretrain_steps": 8,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-5,
    "critic_learning_rate": 1e-4,
}
"""Of PPO with a real model: ten rollouts, of which the policy learns from eight, at rates that such models bear."""
SHORT_SFT = {"max_steps": 60, "per_device_train_batch_size": 8, "learning_rate": 1e-4, "lr_scheduler_type": "cosine"}
"""Of what makes of a real model one that answers the small world's prompts, and scores such answers."""
SFT_ROWS, PAIRS, FEW_PAIRS = 1600, 192, 48


def quietly(trainer: Any) -> None:
    """Train, and print nothing of it."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()


@dataclass(frozen=True)
class World:
    """What the runs of a seed share.

    Args:
        folder: where models are kept.
        model: a chat model's folder in place of the small world's own policy.
    """

    folder: Path
    seed: int
    model: str | None = None

    @property
    def policy(self) -> str:
        """The path of a chat model, or of a policy of the small world that has learnt to answer."""
        return self.model or self.answering

    @property
    def answering(self) -> str:
        """The path of a policy that has learnt to answer the small world's prompts, from which PPO begins."""
        folder = self.folder / f"sft-{self.seed}"
        if not (folder / "config.json").is_file():
            tokenizer = load_tokenizer(self.model) if self.model else build_tokenizer()
            policy = load_policy(self.model) if self.model else build_policy(tokenizer, self.seed)
            usual = SHORT_SFT if self.model else {**USUAL, "learning_rate": 3e-3}
            args = SFTConfig(f"{folder}-run", seed=self.seed, **{**QUIET, **usual})
            rows = Dataset.from_list(sft_rows(SFT_ROWS, self.seed))
            trainer = SFTTrainer(policy, args, None, rows, processing_class=tokenizer)
            quietly(trainer)
            trainer.save_model(str(folder))
        return str(folder)

    @property
    def reward_model(self) -> str:
        """The path of a reward model that has learnt from this seed's pairs."""
        folder = self.folder / f"reward-{self.seed}"
        if not (folder / "config.json").is_file():
            usual = SHORT_SFT if self.model else {**USUAL, "learning_rate": 1.5e-3}
            args = RewardConfig(f"{folder}-run", seed=self.seed, **{**QUIET, **usual})
            rows = Dataset.from_list(preference_rows(480, self.seed))
            trainer = RewardTrainer(self.answering, args, None, rows)
            quietly(trainer)
            trainer.save_model(str(folder))
        return str(folder)

    def pairs(self, count: int = PAIRS, split: str = "train") -> Dataset:
        return Dataset.from_list(preference_rows(min(count, FEW_PAIRS) if self.model else count, self.seed, split))

    def changed(self, change: Callable[[Any], None] | None) -> Any:
        """The policy, changed as a case asks for it."""
        return _changed(load_policy(self.policy), change)

    def arguments(self, kind: Any, out: Path, given: dict[str, Any], **defaults: Any) -> Any:
        """A config of a trainer; what a case gives comes first."""
        short = {} if not self.model else SHORT_PPO if kind is PPOConfig else SHORT
        return kind(output_dir=str(out), seed=self.seed, **{**QUIET, **USUAL, **defaults, **short, **given})


def _changed(model: Any, change: Callable[[Any], None] | None) -> Any:
    if change is not None:
        with torch.no_grad():
            change(model)
    return model


# A trainer of each method: world, output folder, and what a case gives.


def dpo(
    world: World,
    out: Path,
    rows: Any = None,
    change: Any = None,
    ref: Any = None,
    peft: bool = False,
    kind: tuple[Any, Any] = (DPOConfig, DPOTrainer),
    **given: Any,
) -> Any:
    args = world.arguments(kind[0], out, given, learning_rate=1e-4)
    return kind[1](
        world.changed(change),
        None if ref is None else ref(world),
        args,
        None,
        world.pairs() if rows is None else rows(world),
        world.pairs(48, "test") if args.eval_strategy != "no" else None,
        processing_class=load_tokenizer(world.policy),
        peft_config=LoraConfig(target_modules="all-linear") if peft else None,
    )


def kto(world: World, out: Path, **given: Any) -> Any:
    return dpo(world, out, kind=(KTOConfig, KTOTrainer), **given)


def reward(world: World, out: Path, rows: Any = None, change: Any = None, **given: Any) -> Any:
    args = world.arguments(RewardConfig, out, given, learning_rate=1e-3)
    tokenizer = load_tokenizer(world.policy)
    model = _changed(load_scorer(world.policy, tokenizer), change)
    rows = world.pairs() if rows is None else rows(world)
    held_out = world.pairs(96, "test") if args.eval_strategy != "no" else None
    return RewardTrainer(model, args, None, rows, held_out, processing_class=tokenizer)


def sft(world: World, out: Path, count: int = PAIRS, change: Any = None, peft: bool = False, **given: Any) -> Any:
    args = world.arguments(SFTConfig, out, given, learning_rate=1e-3)
    rows = Dataset.from_list(sft_rows(count, world.seed + 100))
    held_out = Dataset.from_list(sft_rows(48, world.seed, "test")) if args.eval_strategy != "no" else None
    more = {"peft_config": LoraConfig(target_modules="all-linear")} if peft else {}
    tokenizer = load_tokenizer(world.policy)
    return SFTTrainer(world.changed(change), args, None, rows, held_out, processing_class=tokenizer, **more)


def rrhf(world: World, out: Path, **given: Any) -> Any:
    args = world.arguments(RRHFConfig, out, given, learning_rate=1e-4, per_device_train_batch_size=8)
    rows = Dataset.from_list(candidate_rows(96, world.seed))
    return RRHFTrainer(world.changed(None), args, None, rows, processing_class=load_tokenizer(world.policy))


def ppo(world: World, out: Path, scorer: Any = None, **given: Any) -> Any:
    args = world.arguments(
        PPOConfig,
        out,
        given,
        learning_rate=3e-4,
        critic_learning_rate=1e-3,
        max_steps=32,
        max_new_tokens=48,
        missing_eos_penalty=1.0,
        critic_pretrain_steps=8,
        lr_scheduler_type="constant",
        kl_coef=0.1,
    )
    prompts = Dataset.from_list(prompt_rows(400, world.seed))
    tokenizer = load_tokenizer(world.answering)
    scorer = world.reward_model if scorer is None else scorer
    return PPOTrainer(load_policy(world.answering), args, None, prompts, processing_class=tokenizer, scorer=scorer)


def rejection_sampling(world: World, out: Path, **given: Any) -> Any:
    args = world.arguments(
        RejectionSamplingConfig,
        out,
        given,
        learning_rate=3e-4,
        per_device_train_batch_size=8,
        iterations=1,
        responses_per_prompt=4,
        max_new_tokens=48,
    )
    prompts = Dataset.from_list(prompt_rows(64, world.seed))
    tokenizer = load_tokenizer(world.answering)
    return RejectionSamplingTrainer(
        load_policy(world.answering), args, None, prompts, processing_class=tokenizer, scorer=world.reward_model
    )

"""The stages that the examples and benchmarks in the small world share: SFT, a reward model, and how DPO is trained."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from rich.console import Console

from prefopt import DPOConfig, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from prefopt.testbed import Recipe, preference_rows, sft_rows
from prefopt.testbed.model import build_policy, build_tokenizer

console = Console(width=min(Console().width, 100))
recipe = Recipe()


def set_up() -> None:
    """One thread a process, since a model this small gains nothing from more, and no bars but our own."""
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(1)
    disable_progress_bars()
    disable_progress_bar()


def train_sft(folder: Path, seed: int) -> float:
    """Seconds it took; the model is in folder/sft."""
    tokenizer = build_tokenizer()
    rows = Dataset.from_list(sft_rows(recipe.sft_rows, seed))
    policy = build_policy(tokenizer, seed)
    return finish(SFTTrainer(policy, sft_config(folder, seed), train_dataset=rows, processing_class=tokenizer))


def train_reward(folder: Path, seed: int) -> tuple[float, float]:
    """Seconds and held-out accuracy; the model starts from folder/sft and is in folder/reward."""
    pairs, held_out = preferences(seed)
    trainer = RewardTrainer(
        str(folder / "sft"), reward_config(folder, seed), train_dataset=pairs, eval_dataset=held_out
    )
    return finish(trainer), trainer.evaluate()["eval_accuracy"]


def preferences(seed: int) -> tuple[Dataset, Dataset]:
    """Pairs to learn from, and pairs on prompts that are never trained on."""
    held_out = preference_rows(recipe.held_out_pairs, seed, "test")
    return Dataset.from_list(preference_rows(recipe.preference_rows, seed)), Dataset.from_list(held_out)


def common(folder: Path, seed: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "seed": seed,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "lr_scheduler_type": "cosine",
        "warmup_steps": recipe.warmup_ratio,
        "max_grad_norm": recipe.max_grad_norm,
        "per_device_eval_batch_size": 64,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def sft_config(folder: Path, seed: int) -> SFTConfig:
    return SFTConfig(
        **common(folder / "sft", seed),
        learning_rate=recipe.sft_learning_rate,
        per_device_train_batch_size=recipe.sft_batch_size,
        num_train_epochs=recipe.sft_epochs,
    )


def reward_config(folder: Path, seed: int) -> RewardConfig:
    return RewardConfig(
        **common(folder / "reward", seed),
        learning_rate=recipe.reward_learning_rate,
        per_device_train_batch_size=recipe.reward_batch_size,
        num_train_epochs=recipe.reward_epochs,
    )


def dpo_config(folder: Path, seed: int) -> DPOConfig:
    return DPOConfig(
        **common(folder / "dpo", seed), beta=0.1, learning_rate=5e-4, per_device_train_batch_size=32, num_train_epochs=1
    )


def finish(trainer: Any) -> float:
    """Train and save; returns the seconds."""
    from transformers import PrinterCallback

    start = time.monotonic()
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model()
    return time.monotonic() - start

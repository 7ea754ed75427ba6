"""SFT, a reward model and DPO on the built-in small world, and what each is worth by the world's known gold reward.

    python examples/quickstart.py --output_dir out/quickstart --seed 0

Nothing is downloaded. The preference methods see graded pairs only; the gold reward judges the answers afterwards.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from rich.console import Console
from rich.table import Table

from prefopt import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from prefopt.models.load import load_policy, load_tokenizer
from prefopt.testbed import Prompt, Recipe, draw_prompts, preference_rows, sft_rows
from prefopt.testbed.measure import Measured, measure
from prefopt.testbed.model import build_policy, build_tokenizer

console = Console(width=min(Console().width, 100))
recipe = Recipe()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("out/quickstart"), help="where models and results go")
    parser.add_argument("--seed", type=int, default=0, help="of the world's rows, the model and the training")
    args = parser.parse_args()
    set_up()
    run(args.output_dir, args.seed)


def set_up() -> None:
    """One thread a process, since a model this small gains nothing from more, and no bars but our own."""
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(1)
    disable_progress_bars()
    disable_progress_bar()


def run(folder: Path, seed: int) -> None:
    with console.status("supervised fine-tuning on demonstrations"):
        say("SFT", train_sft(folder, seed))
    with (
        console.status("a reward model and DPO, side by side, from the same preference pairs"),
        ProcessPoolExecutor(2, get_context("spawn"), set_up) as pool,
    ):
        stages = [pool.submit(stage, folder, seed) for stage in (train_reward, train_dpo)]
        (reward_seconds, reward_accuracy), (dpo_seconds, dpo_accuracy) = (stage.result() for stage in stages)
    say("reward model", reward_seconds)
    say("DPO", dpo_seconds)
    with console.status("answers to held-out prompts"):
        prompts = draw_prompts(recipe.evaluation_prompts, seed, "test", unique=True)
        tokenizer = load_tokenizer(str(folder / "sft"))
        sft, dpo = (load_policy(str(folder / name)) for name in ("sft", "dpo"))
        before, after = (measure(model, tokenizer, prompts, reference=sft, seed=seed) for model in (sft, dpo))
    report(folder, prompts, before, after, reward_accuracy, dpo_accuracy)


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


def train_dpo(folder: Path, seed: int) -> tuple[float, float]:
    """Seconds and held-out accuracy of its implicit reward; the model starts from folder/sft and is in folder/dpo."""
    pairs, held_out = preferences(seed)
    trainer = DPOTrainer(
        str(folder / "sft"), None, dpo_config(folder, seed), train_dataset=pairs, eval_dataset=held_out
    )
    return finish(trainer), trainer.evaluate()["eval_rewards/accuracies"]


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


def say(what: str, seconds: float) -> None:
    console.print(f"{what} trained in {seconds:.0f} s")


def report(
    folder: Path, prompts: list[Prompt], before: Measured, after: Measured, reward_accuracy: float, dpo_accuracy: float
) -> None:
    table = Table(title=f"Held-out pairs ({recipe.held_out_pairs}) and prompts ({len(prompts)}), one seed")
    for name in ("", "accuracy", "gold reward", "KL to SFT", "length", "finished"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    table.add_row("SFT", "-", *columns(before))
    table.add_row("reward model", f"{reward_accuracy:.3f}", *["-"] * 4)
    table.add_row("DPO", f"{dpo_accuracy:.3f}", *columns(after))
    console.print(table)
    gain = after.gold - before.gold
    error = gain.std(ddof=1) / len(gain) ** 0.5
    console.print(f"DPO over SFT on the same prompts: {gain.mean():+.2f} gold reward, standard error {error:.2f}")
    for path in write(folder, prompts, before, after, reward_accuracy, dpo_accuracy):
        console.print(f"wrote {path}")


def columns(measured: Measured) -> list[str]:
    mean, error = measured.mean_gold()
    kl, length = measured.log_ratio.mean(), measured.length.mean()
    return [f"{mean:.2f} ± {error:.2f}", f"{kl:.2f}", f"{length:.1f}", f"{measured.finished.mean():.0%}"]


def write(
    folder: Path, prompts: list[Prompt], before: Measured, after: Measured, reward_accuracy: float, dpo_accuracy: float
) -> list[Path]:
    """The table's numbers, and every answer beside the one before it."""
    results, samples = folder / "results.json", folder / "samples.jsonl"
    numbers = {"sft": summary(before), "reward": {"accuracy": reward_accuracy}, "dpo": summary(after)}
    numbers["dpo"]["accuracy"] = dpo_accuracy
    results.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    rows = zip(prompts, before.samples, before.gold, after.samples, after.gold, strict=True)
    lines = [
        {"prompt": p.messages, "sft": a.text, "sft_gold": float(x), "dpo": b.text, "dpo_gold": float(y)}
        for p, a, x, b, y in rows
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    samples.write_text(text, encoding="utf-8")
    return [results, samples, *(folder / name for name in ("sft", "reward", "dpo"))]


def summary(measured: Measured) -> dict[str, float]:
    mean, error = measured.mean_gold()
    shares = {name: float(np.mean(getattr(measured, name))) for name in ("length", "finished", "log_ratio")}
    return {"gold": mean, "gold_standard_error": error, **shares}


if __name__ == "__main__":
    main()

"""Rejection-sampling fine-tuning and RRHF on the built-in small world, beside SFT, by the world's known gold reward.

    python -m examples.rejection_sampling --output_dir out/rejection-sampling --seeds 0 1 2

Each seed trains its own SFT policy and reward model (as the quickstart does), then both methods draw responses from
that policy and let the reward model judge them. The gold reward judges fresh responses to 256 held-out prompts
afterwards: what a method gains is the mean difference to SFT on the same prompts, with its standard error. A run that
was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from datasets import Dataset
from rich import box
from rich.table import Table

from prefopt import RejectionSamplingConfig, RejectionSamplingTrainer, RRHFConfig, RRHFTrainer
from prefopt.models.load import load_policy, load_tokenizer
from prefopt.testbed import preference_rows, sample_prompts
from prefopt.testbed.measure import Measured, measure

from .small_world import common, console, recipe, set_up, train_reward, train_sft

METHODS: dict[str, tuple[Any, Any]] = {
    "rejection-sampling": (RejectionSamplingTrainer, RejectionSamplingConfig),
    "rrhf": (RRHFTrainer, RRHFConfig),
}
ROWS = 1000  # preference pairs whose prompts are drawn from: 758 different ones with seed 10
# Chosen on 256 validation prompts with a world of seed 10. Eight responses to a prompt, or a rate of 1e-3, gain as much
# in two iterations and lose it again in the third, where the reward model goes on rising and the gold reward falls.
SETTINGS = {
    "responses_per_prompt": 4,
    "max_new_tokens": recipe.max_new_tokens,
    "learning_rate": 5e-4,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 32,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("out/rejection-sampling"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    args = parser.parse_args()
    set_up()
    title = f"Gold reward of fresh responses to {recipe.evaluation_prompts} held-out prompts"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0)
    for name in ("seed", "method", "iteration", "gold", "over SFT", "in SE", "KL", "tokens"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for seed in args.seeds:
        for row in results(args.output_dir / str(seed), seed, args.methods):
            table.add_row(str(seed), *row)
    console.print(table)


def results(folder: Path, seed: int, methods: list[str]) -> list[list[str]]:
    """Table rows of one seed: SFT, and each method after each iteration."""
    prepare(folder, seed)
    tokenizer, sft = load_tokenizer(str(folder / "sft")), load_policy(str(folder / "sft"))
    prompts = sample_prompts(recipe.evaluation_prompts, 1000, "test", unique=True)
    before = measure(sft, tokenizer, prompts, seed=seed)
    rows = [["SFT", "-", f"{before.gold.mean():.2f}", "-", "-", "-", f"{before.length.mean():.1f}"]]
    for name in methods:
        train(name, folder, seed)
        for place in sorted((folder / name).glob("iteration-*")):
            after = measure(load_policy(str(place / "policy")), tokenizer, prompts, reference=sft, seed=seed)
            rows.append([name, str(int(place.name[-3:]) + 1), *columns(before, after)])
    return rows


def prepare(folder: Path, seed: int) -> None:
    """An SFT policy and a reward model, if they are not there."""
    for name, make in (("sft", train_sft), ("reward", train_reward)):
        if not (folder / name / "config.json").is_file():
            with console.status(f"seed {seed}: {name}"):
                make(folder, seed)


def train(name: str, folder: Path, seed: int) -> None:
    trainer_type, config = METHODS[name]
    rows = Dataset.from_list(preference_rows(ROWS, seed))
    args = config(**common(folder / name, seed) | SETTINGS)
    trainer = trainer_type(str(folder / "sft"), args, train_dataset=rows, scorer=str(folder / "reward"))
    with console.status(f"seed {seed}: {name}"):
        trainer.train(resume_from_checkpoint=True)


def columns(before: Measured, after: Measured) -> list[str]:
    gain = after.gold - before.gold
    error = gain.std(ddof=1) / len(gain) ** 0.5
    gained = [f"{gain.mean():+.2f} ± {error:.2f}", f"{gain.mean() / error:.1f}"]
    return [f"{after.gold.mean():.2f}", *gained, f"{after.log_ratio.mean():.2f}", f"{after.length.mean():.1f}"]


if __name__ == "__main__":
    main()

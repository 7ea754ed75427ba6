"""What the scripts here share: their options, and the small world that `--tiny` runs them in. Nothing is downloaded.

The small world is `prefopt.testbed`: a policy of half a million weights, a reward model, rows in English and Chinese.
All is made once, in out/tiny, in about half a minute.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prefopt import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from prefopt.testbed import (
    candidate_rows,
    hh_rlhf,
    preference_rows,
    prompt_rows,
    rm_static,
    rrhf,
    sft_rows,
    write_jsonl,
)
from prefopt.testbed.model import build_policy, build_tokenizer

WORLD = Path("out/tiny")
SHORT = {"bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no"}
"""What `--tiny` sets of a training, on a laptop without a GPU."""


def options(about: str | None, name: str, model: str = "HuggingFaceTB/SmolLM2-135M-Instruct", **more: str):
    """The options of a script: --tiny, --model, --output_dir, and those in `more` with their defaults.

    With --tiny, a model and files of the small world take the place of those that are not given.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--tiny", action="store_true", help="in the small world, in a minute, without a download")
    parser.add_argument("--model", help=f"the model to start from ({model})")
    parser.add_argument("--output_dir", default=f"out/{name}", help="(%(default)s)")
    for option, default in more.items():
        parser.add_argument(f"--{option}", help=f"({default})")
    args = parser.parse_args()
    if args.tiny:
        world = small_world()
        defaults = {"model": world / "sft", "data": world / "pairs.jsonl", "prompts": world / "prompts.jsonl"}
        defaults |= {"scorer": world / "reward", "held_out": world / "held_out.jsonl"}
    else:
        defaults = {"model": model, **more}
    for option in ("model", *more):
        if getattr(args, option) is None:
            setattr(args, option, str(defaults[option]))
    args.short = {**SHORT, "overwrite_output_dir": True, "max_steps": 12} if args.tiny else {}
    return args


def small_world() -> Path:
    """The folder of the small world, which is made if it is not there."""
    if (WORLD / "reward/config.json").is_file():
        return WORLD
    for name, rows in {
        "sft": sft_rows(1000, 0),
        "pairs": map(hh_rlhf, preference_rows(256, 0)),
        "graded": preference_rows(256, 0),
        "held_out": map(hh_rlhf, preference_rows(64, 0, "test")),
        "prompts": prompt_rows(64, 0),
        "lists": map(rrhf, candidate_rows(64, 0)),
        "zh": map(rm_static, preference_rows(128, 1)),
    }.items():
        write_jsonl(WORLD / f"{name}.jsonl", rows)
    tokenizer = build_tokenizer()
    training = {**SHORT, "learning_rate": 3e-3, "max_length": 256, "overwrite_output_dir": True}
    sft = SFTTrainer(
        build_policy(tokenizer),
        SFTConfig(str(WORLD / "sft"), per_device_train_batch_size=16, max_steps=120, **training),
        train_dataset=str(WORLD / "sft.jsonl"),
        processing_class=tokenizer,
    )
    sft.train()
    sft.save_model()
    reward = RewardTrainer(
        str(WORLD / "sft"),
        RewardConfig(str(WORLD / "reward"), per_device_train_batch_size=16, max_steps=30, **training),
        train_dataset=str(WORLD / "pairs.jsonl"),
    )
    reward.train()
    reward.save_model()
    return WORLD

"""A plan of two rounds on the small world, as small as rounds can be."""

from __future__ import annotations

from typing import Any

TINY: dict[str, Any] = {
    "title": "tiny <b>轮</b>",
    "policy": "testbed",
    "data": {"train": "testbed", "train_rows": 40},
    "sft": {"max_steps": 2, "learning_rate": 3e-3, "per_device_train_batch_size": 16},
    "training": {
        "per_device_train_batch_size": 8,
        "max_length": 128,
        "max_new_tokens": 8,
        "bf16": False,
        "gradient_checkpointing": False,
        "learning_rate": 1e-3,
    },
    "evaluation": {
        "prompts": 6,
        "pairs": 8,
        "responses_per_prompt": 2,
        "max_new_tokens": 8,
        "curve_prompts": 4,
    },
    "round": {
        "prompts": {"label": 12, "sample": 6},
        "label": {"by": "testbed", "held_out": 0.25, "temperatures": [0.8, 1.2], "include_truncated": True},
        "reward": {"max_steps": 1},
        "sample": {"responses_per_prompt": 3, "temperatures": [0.7, 1.0], "search_prompts": 2, "max_truncated": 1.0},
        "select": {"include_truncated": True},
        "train": {"method": "dpo", "init": "previous", "max_steps": 1},
    },
    "rounds": [{}, {"sample": {"temperatures": []}, "train": {"reference": "base"}}],
}

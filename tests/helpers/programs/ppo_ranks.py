"""Run by itself or by torchrun: PPO on however many ranks there are, from where its folder stands; prints JSON."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from prefopt.models.critic import parameter_groups
from prefopt.scoring import RewardModelScorer
from prefopt.testbed import preference_rows
from prefopt.testbed.model import build_tokenizer
from prefopt.training.checkpoint import problem_with
from tests.helpers.models import untrained
from tests.helpers.ppo import logs, reward_model, trainer_of

CHANGES: dict[str, Any] = {
    "max_steps": 12,
    "critic_pretrain_steps": 2,
    "critic_pretrain_until": 1.0,
    "num_ppo_epochs": 2,
    "advantage_norm": True,
    "ptx_coef": 0.1,
    "target_kl": 6.0,
    "lr_scheduler_type": "cosine",
    "save_strategy": "steps",
    "save_steps": 1,
}


def run(folder: Path) -> dict[str, Any]:
    tokenizer = build_tokenizer()
    rows = Dataset.from_list(preference_rows(24, seed=3))
    # A rank takes half a step's rows, so that the step is the same.
    each = 4 // int(os.environ.get("WORLD_SIZE", "1"))
    judge = RewardModelScorer(reward_model(tokenizer).double(), tokenizer)
    policy = untrained(tokenizer).double()
    trainer = trainer_of(folder, tokenizer, rows, policy, scorer=judge, **CHANGES, per_device_train_batch_size=each)
    begun = any(problem_with(place) is None for place in (folder / "run").glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=begun or None)
    weights = {name: torch.cat([p.flatten() for p in group]) for name, group in parameter_groups(trainer.model).items()}
    return {
        "world": trainer.args.world_size,
        "resumed": begun,
        "weights": {name: [group.sum().item(), group.abs().sum().item()] for name, group in weights.items()},
        "bits": {name: hashlib.md5(group.detach().numpy().tobytes()).hexdigest() for name, group in weights.items()},
        "state": {name: float(value) for name, value in trainer.step.state.items()},
        "trace": [json.loads(line) for line in (folder / "run" / "rollouts.jsonl").read_text().splitlines()],
        "logs": {name: logs(trainer, name) for name in ("loss", "objective/kl", "loss/value_avg", "learning_rate")},
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = run(Path(json.loads(sys.argv[1])["folder"]))
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        print("RESULT " + json.dumps(found))

"""A PPO run small enough for seconds, and what its log says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from prefopt import PPOConfig, PPOTrainer
from prefopt.models.heads import scorer_from_policy
from prefopt.scoring import RewardModelScorer
from tests.helpers.models import untrained
from tests.helpers.training import quiet

QUICK: dict[str, Any] = {"max_new_tokens": 10, "num_mini_batches": 2, "critic_pretrain_steps": 0, "learning_rate": 1e-4}

OWN = ("peft_config", "quantization_config", "eval_dataset", "critic", "ptx_dataset", "ref_model", "callbacks")
"""What `trainer_of` hands to the trainer itself, not to its arguments."""


def reward_model(tokenizer: Any, seed: int = 5) -> Any:
    """A reward model with a random head, which says other things of other responses."""
    scorer = scorer_from_policy(untrained(tokenizer))
    torch.manual_seed(seed)
    torch.nn.init.normal_(scorer.score.weight, std=0.3)
    return scorer


def config(tmp_path: Path, **changes: Any) -> PPOConfig:
    given = {"per_device_train_batch_size": 4, "max_steps": 4, **QUICK, **changes}
    return PPOConfig(**quiet(tmp_path, **given))


def trainer_of(tmp_path: Path, tokenizer: Any, pairs: Any, policy: Any = None, **changes: Any) -> PPOTrainer:
    own = {name: changes.pop(name) for name in list(changes) if name in OWN}
    scorer = changes.pop("scorer", None) or RewardModelScorer(reward_model(tokenizer), tokenizer)
    policy = untrained(tokenizer) if policy is None else policy
    args = config(tmp_path, **changes)
    return PPOTrainer(policy, args, train_dataset=pairs, processing_class=tokenizer, scorer=scorer, **own)


def logs(trainer: Any, name: str) -> list[float]:
    """A figure over the steps that logged it."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]

"""The named trainers, each declared once: commands, public names and `compare` follow from what stands here.

Nothing heavy is imported: a declaration holds names, from which a class is loaded when it is wanted. To add a trainer,
write its config and its class (in `trainers.py`, or in a module of its own) and declare it here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

HERE = "prefopt.training.trainers"


@dataclass(frozen=True)
class Declaration:
    """A named trainer.

    Args:
        command: the command that runs it, as in `prefopt dpo`.
        summary: what it does, in a sentence; the overview of commands prints it.
        trainer: its class as `module:name`; the class names its `config`, its `objective_type` and its `presets`.
        config: the class of its arguments as `module:name`.
        purpose: what rows are read for, as `prefopt.data.load` takes it; with a scorer it is "any".
        settings: the method's own settings that the short help page shows, the most important first.
        data: the data of the example on the help page.
    """

    command: str
    summary: str
    trainer: str
    config: str
    purpose: str = "preferences"
    settings: tuple[str, ...] = ()
    data: str = "pairs.jsonl"

    @property
    def public(self) -> dict[str, str]:
        """The names that `prefopt` and `prefopt.training` publish -> `module:name`."""
        return {path.partition(":")[2]: path for path in (self.config, self.trainer)}

    def load(self) -> Any:
        """The trainer's class."""
        return resolve_name(self.trainer)


DECLARATIONS: dict[str, Declaration] = {}
"""Command -> declaration, in the order in which commands are listed."""


def declare(*declarations: Declaration) -> None:
    """Enter named trainers under their commands."""
    for declaration in declarations:
        DECLARATIONS[declaration.command] = declaration


def named_trainers() -> Iterator[Any]:
    """The classes of all named trainers."""
    return (declaration.load() for declaration in DECLARATIONS.values())


def public_names() -> dict[str, str]:
    """The public names of all named trainers and of their configs -> `module:name`."""
    return {name: path for declaration in DECLARATIONS.values() for name, path in declaration.public.items()}


declare(
    Declaration(
        command="sft",
        summary="Supervised fine-tuning on good answers.",
        trainer=f"{HERE}:SFTTrainer",
        config=f"{HERE}:SFTConfig",
        purpose="sft",
        settings=("dataset_text_field",),
        data="demonstrations.jsonl",
    ),
    Declaration(
        command="reward",
        summary="Train a reward model on pairs of answers.",
        trainer=f"{HERE}:RewardTrainer",
        config=f"{HERE}:RewardConfig",
        settings=("margin", "center_rewards_coefficient", "normalize_scores"),
    ),
    Declaration(
        command="dpo",
        summary="Direct preference optimization and its family of losses.",
        trainer=f"{HERE}:DPOTrainer",
        config=f"{HERE}:DPOConfig",
        settings=("loss_type", "beta", "label_smoothing"),
    ),
    Declaration(
        command="kto",
        summary="Learn from answers that are each labelled good or bad.",
        trainer=f"{HERE}:KTOTrainer",
        config=f"{HERE}:KTOConfig",
        purpose="unpaired",
        settings=("loss_type", "beta", "desirable_weight", "undesirable_weight"),
        data="labelled.jsonl",
    ),
    Declaration(
        command="rrhf",
        summary="Rank answers as their scores do, and imitate the best.",
        trainer=f"{HERE}:RRHFTrainer",
        config=f"{HERE}:RRHFConfig",
        settings=("rrhf_weight", "mode", "scorer", "responses_per_prompt"),
    ),
    Declaration(
        command="rejection-sampling",
        summary="Sample responses, train on the best of them, and again.",
        trainer=f"{HERE}:RejectionSamplingTrainer",
        config=f"{HERE}:RejectionSamplingConfig",
        purpose="any",
        settings=("iterations", "responses_per_prompt", "temperature", "max_new_tokens"),
        data="prompts.jsonl",
    ),
    Declaration(
        command="ppo",
        summary="PPO-max: sample, score, and learn from it at once.",
        trainer=f"{HERE}:PPOTrainer",
        config=f"{HERE}:PPOConfig",
        purpose="any",
        settings=("kl_coef", "reward_norm", "max_new_tokens", "num_mini_batches", "total_episodes", "share_critic"),
        data="prompts.jsonl",
    ),
)

"""The field's names for the trainers and their configs. Names and arguments only: the loop is `PreferenceTrainer`'s."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar, cast

from datasets import Dataset
from peft import PeftConfig
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

from ..models.heads import clear_normalization, set_normalization
from ..objectives.base import Objective
from ..objectives.dpo import DPO, DPOArguments
from ..objectives.kto import KTO, KTOArguments
from ..objectives.ppo import NAMES, PPO
from ..objectives.ppo_arguments import PPOArguments
from ..objectives.rejection_sampling import RejectionSampling
from ..objectives.reward import BradleyTerry, RewardArguments
from ..objectives.rrhf import RRHF, RRHFArguments
from ..objectives.sampling_arguments import IterationArguments
from ..objectives.sft import SFT, SFTArguments
from ..utils.options import option
from .config import PreferenceConfig, objective_from
from .generating import check_unscored
from .places import check_places
from .trainer import PreferenceTrainer
from .trl_settings import TRLSettings, TRLSFTSettings, check_trainer_arguments

logger = logging.getLogger(__name__)


@dataclass
class DPOConfig(DPOArguments, TRLSettings, PreferenceConfig):
    """Arguments of `DPOTrainer`, named as in TRL."""

    objective_type: ClassVar[type[Objective] | None] = DPO

    reference_free: bool | None = option(None, "Old name: use --loss_type cpo --cpo_alpha 0.")
    rpo_alpha: float | None = option(None, "Old name: use --loss_type sigmoid sft with --loss_weights.")

    def __post_init__(self) -> None:
        if self.rpo_alpha is not None:
            warnings.warn(
                "rpo_alpha=a is now loss_type=['sigmoid', 'sft'], loss_weights=[1, a]", FutureWarning, stacklevel=3
            )
            self.loss_type, self.loss_weights = ["sigmoid", "sft"], [1.0, self.rpo_alpha]
        if self.reference_free:
            warnings.warn("reference_free=True is now loss_type=['cpo'], cpo_alpha=0", FutureWarning, stacklevel=3)
            self.loss_type, self.cpo_alpha = ["cpo"], 0.0
        super().__post_init__()


@dataclass
class KTOConfig(KTOArguments, TRLSettings, PreferenceConfig):
    """Arguments of `KTOTrainer`, named as in TRL."""

    objective_type: ClassVar[type[Objective] | None] = KTO


@dataclass
class RewardConfig(RewardArguments, TRLSettings, PreferenceConfig):
    """Arguments of `RewardTrainer`, named as in TRL."""

    objective_type: ClassVar[type[Objective] | None] = BradleyTerry

    learning_rate: float = option(1e-4, "The initial learning rate.")
    normalize_scores: bool = option(
        False,
        "After training, store the mean and standard deviation of the training scores in the model's "
        "config. They are for `prefopt.models.heads.normalize` and for scoring with this model.",
    )


@dataclass
class RejectionSamplingConfig(IterationArguments, PreferenceConfig):
    """Arguments of `RejectionSamplingTrainer`: those of an offline run are each iteration's."""

    objective_type: ClassVar[type[Objective] | None] = RejectionSampling

    learning_rate: float = option(2e-5, "The initial learning rate of each iteration.")


@dataclass
class RRHFConfig(RRHFArguments, PreferenceConfig):
    """Arguments of `RRHFTrainer`."""

    objective_type: ClassVar[type[Objective] | None] = RRHF

    # Learning rate as in the paper and its scripts.
    learning_rate: float = option(2e-5, "The initial learning rate.")


@dataclass
class PPOConfig(PPOArguments, PreferenceConfig):
    """Arguments of `PPOTrainer`, named as in TRL's removed one. The defaults are PPO-max's: see `from_preset`."""

    objective_type: ClassVar[type[Objective] | None] = PPO

    # Optimizer and schedule as in MOSS-RLHF, with the paper's learning rates (arXiv:2307.04964, section 5.1).
    learning_rate: float = option(5e-7, "The initial learning rate of the policy.")
    adam_beta2: float = option(0.95, "The beta2 for the Adam optimizer.")
    adam_epsilon: float = option(1e-6, "The epsilon for the Adam optimizer.")
    lr_scheduler_type: str = option("inverse_sqrt", "The schedule of both learning rates.")
    warmup_steps: float = option(0.1, "Steps of warm-up; below 1, a share of them.")
    response_length: int | None = option(None, "Old name: use --max_new_tokens.")
    total_episodes: int | None = option(None, "Prompts to answer in all, rounded up to whole rollouts; sets max_steps.")
    local_rollout_forward_batch_size: int | None = option(None, "Old name: use --per_device_eval_batch_size.")
    whiten_rewards: bool = option(False, "Old name: use --reward_norm.")
    stop_token: str | None = option(None, "Accepted for compatibility: `eos`, where responses end anyway.")
    num_sample_generations: int = option(10, "Accepted for compatibility: every rollout has samples in rollouts.jsonl.")

    def __post_init__(self) -> None:
        if self.response_length is not None:
            warnings.warn("`response_length` is now `max_new_tokens`", FutureWarning, stacklevel=3)
            self.max_new_tokens = self.response_length
        if self.local_rollout_forward_batch_size is not None:
            warnings.warn(
                "`local_rollout_forward_batch_size` is now `per_device_eval_batch_size`", FutureWarning, stacklevel=3
            )
            self.per_device_eval_batch_size = self.local_rollout_forward_batch_size
        if self.whiten_rewards:
            raise ValueError(
                "whiten_rewards=True whitened rewards token by token: use reward_norm, for whole responses"
            )
        if self.stop_token not in (None, "eos"):
            raise ValueError(f"stop_token={self.stop_token!r}: responses end with eos, or with one of stop_strings")
        super().__post_init__()
        if self.total_episodes is not None:
            if self.total_episodes < 1:
                raise ValueError(f"total_episodes={self.total_episodes} must be at least 1")
            per_step = self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size
            rollouts = -(-self.total_episodes // (per_step * self.num_mini_batches))
            self.max_steps = rollouts * self.num_mini_batches * self.num_ppo_epochs

    @classmethod
    def from_preset(cls, name: str, **given: Any) -> PPOConfig:
        """The arguments that a preset has (`ppo-max`, `ppo`, `ppo-moss`), and those given instead.

        Raises:
            ValueError: no such preset.
        """
        if name not in PPO_PRESETS:
            raise ValueError(f"preset {name!r}: choose one of {', '.join(PPO_PRESETS)}")
        return cls(**{**PPO_PRESETS[name], **given})


PPO_PRESETS: dict[str, dict[str, Any]] = {
    name: {
        field.name: value
        for field in fields(PPO)
        if (value := getattr(preset, field.name)) != getattr(PPO(), field.name)
    }
    for name, preset in NAMES.items()
}
"""What each preset has other than PPO-max."""


@dataclass
class SFTConfig(SFTArguments, TRLSFTSettings, PreferenceConfig):
    """Arguments of `SFTTrainer`, named as in TRL."""

    objective_type: ClassVar[type[Objective] | None] = SFT

    learning_rate: float = option(2e-5, "The initial learning rate.")
    dataset_text_field: str = option("text", "Column that holds bare text.")
    completion_only_loss: bool | None = option(
        None, "Only answers are trained on. False, training on prompts too, is taken for rows of bare text alone."
    )
    assistant_only_loss: bool = option(True, "Only assistant turns are trained on.")

    def __post_init__(self) -> None:
        if self.loss_type == "chunked_nll":
            warnings.warn("loss_type='chunked_nll' is now loss_type='nll'", FutureWarning, stacklevel=3)
            self.loss_type = "nll"
        if not self.assistant_only_loss:
            warnings.warn(
                "conversations train on assistant turns only, whatever assistant_only_loss says: to train on all of "
                "it, give their text in the column `text`",
                stacklevel=3,
            )
        if self.shuffle_dataset and self.train_sampling_strategy == "sequential":
            raise ValueError(
                "shuffle_dataset=True and train_sampling_strategy='sequential': rows are shuffled anew in each epoch, "
                "or read in their order, choose one"
            )
        super().__post_init__()


class NamedTrainer(PreferenceTrainer):
    """What the named trainers share: TRL's arguments, old names included. `declarations.py` lists them."""

    config: type[PreferenceConfig]
    objective_type: type[Objective]
    presets: Mapping[str, Mapping[str, Any]] = {}
    """Name -> other defaults of the config."""

    def __init__(
        self,
        model: Any,
        args: PreferenceConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_metrics: Callable[..., dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        *,
        quantization_config: Any = None,
        peft_config: PeftConfig | None = None,
        ref_model: Any = None,
        scorer: Any = None,
        compute_loss_func: Any = None,
        preprocess_logits_for_metrics: Any = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **more: Any,
    ):
        check_places(
            type(self),
            {
                "model": model,
                "ref_model": ref_model,
                "args": args,
                "data_collator": data_collator,
                "train_dataset": train_dataset,
                "eval_dataset": eval_dataset,
                "processing_class": processing_class,
                "compute_metrics": compute_metrics,
                "callbacks": callbacks,
                "optimizers": optimizers,
                "peft_config": peft_config,
                "scorer": scorer,
                "tokenizer": tokenizer,
            },
        )
        check_trainer_arguments(
            {
                "data_collator": data_collator,
                "compute_loss_func": compute_loss_func,
                "preprocess_logits_for_metrics": preprocess_logits_for_metrics,
            }
        )
        if tokenizer is not None:
            warnings.warn("`tokenizer` is now `processing_class`", FutureWarning, stacklevel=3)
        args = args or self.config(output_dir=f"{type(self).__name__.removesuffix('Trainer').lower()}-output")
        _check_kind(type(self), args)
        if args.model_init_kwargs and not isinstance(model, str):
            logger.warning(
                "model_init_kwargs is for loading a model by its name, and changes nothing of one that is loaded"
            )
        objective = objective_from(args, self.objective_type)
        if scorer is None:
            check_unscored(objective)
        super().__init__(
            model,
            objective,
            args,
            train_dataset,
            eval_dataset,
            processing_class or tokenizer,
            ref_model=ref_model,
            scorer=scorer,
            peft_config=peft_config,
            quantization_config=quantization_config,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            **more,
        )


def _check_kind(trainer: type[NamedTrainer], args: Any) -> None:
    """Refuse the arguments of another trainer."""
    if not isinstance(args, trainer.config):
        raise TypeError(f"{trainer.__name__} takes args of type {trainer.config.__name__}, not {type(args).__name__}")


class ReferencedTrainer(NamedTrainer):
    """What the named trainers share whose second argument is the reference, as in TRL."""

    def __init__(self, model: Any, ref_model: Any = None, args: Any = None, *rest: Any, **kwargs: Any):
        super().__init__(model, args, *rest, ref_model=ref_model, **kwargs)


class DPOTrainer(ReferencedTrainer):
    """Direct preference optimization and its family; `DPOConfig.loss_type` chooses.

    `kto`, `bco_pair` and `apo_zero` also learn from unpaired rows, as `KTOTrainer` does.
    """

    config, objective_type = DPOConfig, DPO


class KTOTrainer(ReferencedTrainer):
    """KTO and its kin on unpaired rows: a prompt, a response, and a label that says whether it is a good one.

    Pairs are split into two rows each, the chosen response first.
    """

    config, objective_type = KTOConfig, KTO


class RewardTrainer(NamedTrainer):
    """A reward model from pairs; saved as a plain transformers classification model with one label."""

    config, objective_type = RewardConfig, BradleyTerry
    args: RewardConfig

    def train(self, *args: Any, **kwargs: Any) -> Any:
        clear_normalization(self.accelerator.unwrap_model(self.model))  # of an earlier training
        result = super().train(*args, **kwargs)
        if self.args.normalize_scores:
            _, scores = self.predict(self.train_dataset).predictions  # type: ignore[misc]
            set_normalization(self.accelerator.unwrap_model(self.model), scores.mean(), scores.std())
        return result


class RejectionSamplingTrainer(NamedTrainer):
    """Llama 2's rejection-sampling fine-tuning: in iterations, the best of all responses sampled so far."""

    config, objective_type = RejectionSamplingConfig, RejectionSampling


class RRHFTrainer(NamedTrainer):
    """RRHF, arXiv:2304.05302: the policy ranks K responses as their scores do, and imitates the best.

    With a `scorer` it samples responses to rank beside the dataset's own; without one, it ranks these.
    """

    config, objective_type = RRHFConfig, RRHF


class PPOTrainer(NamedTrainer):
    """PPO-max, and the vanilla PPO that it is measured against (`PPOConfig.from_preset`).

    Secrets of RLHF part I, arXiv:2307.04964. `trainer.model` is the policy; what is saved is two models, `policy` and
    `critic`.

    Args:
        reward_model, value_model: TRL's names of `scorer` and `critic`.
    """

    config, objective_type, presets = PPOConfig, PPO, PPO_PRESETS

    def __init__(self, *args: Any, reward_model: Any = None, value_model: Any = None, **kwargs: Any):
        for old, new, value in (("reward_model", "scorer", reward_model), ("value_model", "critic", value_model)):
            if value is not None and kwargs.setdefault(new, value) is not value:
                raise ValueError(f"{old} is {new} under another name: pass one of them")
        super().__init__(*args, **kwargs)


class SFTTrainer(NamedTrainer):
    """Supervised fine-tuning on answers (prompt-only tokens are never trained on)."""

    config, objective_type = SFTConfig, SFT

    def __init__(
        self,
        model: Any,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_loss_func: Any = None,
        *rest: Any,
        formatting_func: Any = None,
        **kwargs: Any,
    ):
        check_places(
            SFTTrainer,
            {
                "args": args,
                "data_collator": data_collator,
                "train_dataset": train_dataset,
                "eval_dataset": eval_dataset,
                "processing_class": processing_class,
                "compute_loss_func": compute_loss_func,
            },
        )
        config = _sft_config(args)
        text = partial(_as_text, formatting_func=formatting_func, text_field=config.dataset_text_field)
        datasets = text(train_dataset), text(eval_dataset)
        if config.completion_only_loss is False and not all(map(_is_bare_text, datasets)):
            raise ValueError(
                "completion_only_loss=False trains on prompts too, which is not offered: leave it out, or give prompt "
                "and answer as one text in the column `text`"
            )
        super().__init__(
            model,
            config,
            data_collator,
            *datasets,
            processing_class,
            *rest,
            compute_loss_func=compute_loss_func,
            **kwargs,
        )


def _sft_config(args: TrainingArguments | None) -> SFTConfig:
    """`args`, of which TRL's SFTTrainer, too, takes transformers' own."""
    if args is None:
        return SFTConfig(output_dir="sft-output")
    if type(args) is TrainingArguments:
        return SFTConfig(**{field.name: getattr(args, field.name) for field in fields(args) if field.init})
    _check_kind(SFTTrainer, args)
    return cast(SFTConfig, args)


def _is_bare_text(dataset: Any) -> bool:
    """Whether rows, of all parts of a dict, are known to have no prompt."""
    if isinstance(dataset, dict):
        return all(map(_is_bare_text, dataset.values()))
    if dataset is None or not isinstance(dataset, Dataset):
        return dataset is None
    return "text" in dataset.column_names or ("prompt" in dataset.column_names and not any(dataset["prompt"]))


def _as_text(dataset: Any, formatting_func: Any, text_field: str) -> Any:
    """Rows of bare text, where the user's function makes it or another column holds it."""
    if isinstance(dataset, dict):
        return {name: _as_text(part, formatting_func, text_field) for name, part in dataset.items()}
    if formatting_func is not None and dataset is not None:
        if not isinstance(dataset, Dataset):
            raise ValueError(f"formatting_func works on a datasets.Dataset, not on {dataset!r}: load it first")
        return dataset.map(lambda row: {"text": formatting_func(row)}, remove_columns=dataset.column_names)
    if text_field != "text" and text_field in getattr(dataset, "column_names", ()):
        return dataset.select_columns([text_field]).rename_column(text_field, "text")
    return dataset

"""What TRL's trainers can be told and these cannot: the values that are taken, and what to do instead of the others.

Every setting of TRL is either one here, by the same name, or stands in this table, so that none of its scripts fails on
a default, and none runs without what it asked for. A test goes through the dataclasses of the TRL that is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..utils.options import option


@dataclass(frozen=True)
class NotHere:
    """A setting that is taken for the sake of scripts that were written for TRL.

    Args:
        default: TRL's default, which asks for what happens here anyway.
        instead: why other values are errors, and what to do instead.
        also: other values that ask for what happens here anyway.
    """

    default: Any
    instead: str
    also: tuple[Any, ...] = ()

    @property
    def taken(self) -> tuple[Any, ...]:
        """The values that are no errors."""
        return (self.default, *self.also)


_BATCHES = (
    "rows always lie without padding; to fill each batch with as many as fit, set max_tokens_per_batch, to "
    "per_device_train_batch_size times max_length for as many tokens as that many packs have"
)

SETTINGS: dict[str, NotHere] = {
    # Of TRL's configs.
    "activation_offloading": NotHere(
        False,
        "gradient_checkpointing, on by default, recomputes activations instead of keeping them, and a smaller "
        "max_tokens_per_batch lowers what is left",
    ),
    "router_aux_loss_coef": NotHere(
        None,
        "the load-balancing loss of mixture-of-experts models is not added here; set it to 0.0 to go without",
        also=(0.0,),
    ),
    "padding_free": NotHere(False, "rows always lie without padding, so true and false are the same", also=(True,)),
    # Of its SFTConfig.
    "packing": NotHere(False, _BATCHES),
    "packing_strategy": NotHere("bfd", _BATCHES),
    "eval_packing": NotHere(None, _BATCHES, also=(False,)),
    "shuffle_dataset": NotHere(
        False, "rows are shuffled anew in each epoch under train_sampling_strategy=random", also=(True,)
    ),
    "dataset_kwargs": NotHere(
        None,
        "rows that are encoded already are known by their columns prompt_ids and response_ids, and all others are "
        "encoded; prefopt.data.encode.encode_dataset makes the former",
        also=({}, {"skip_prepare_dataset": False}),
    ),
    # Of transformers.
    "use_liger_kernel": NotHere(
        False,
        "no vocabulary-sized tensor is kept here either, since log-probs are computed a chunk of tokens at a time; "
        "leave it out",
    ),
    "label_smoothing_factor": NotHere(
        0.0, "it smooths over tokens in transformers' own losses; those of preferences have label_smoothing"
    ),
}
"""TRL's setting -> the values that are taken, and what to do instead of the others."""


def not_here(name: str) -> Any:
    """The dataclass field of a setting in `SETTINGS`."""
    setting = SETTINGS[name]
    values = " or ".join(dict.fromkeys(str(value).lower() for value in setting.taken))
    return option(setting.default, f"Accepted for compatibility, {values} only: {setting.instead}.")


def check_settings(config: Any) -> None:
    """Refuse values of a config that ask for what does not happen here.

    Raises:
        ValueError: there is one; the message says what to do instead.
    """
    for name, setting in SETTINGS.items():
        value = getattr(config, name, setting.default)
        if value not in setting.taken:
            raise ValueError(f"{name}={value!r} is not offered: {setting.instead}")


@dataclass
class TRLSettings:
    """Settings that TRL's configs share."""

    activation_offloading: bool = not_here("activation_offloading")
    router_aux_loss_coef: float | None = not_here("router_aux_loss_coef")
    padding_free: bool = not_here("padding_free")


@dataclass
class TRLSFTSettings(TRLSettings):
    """Settings of TRL's SFTConfig."""

    packing: bool = not_here("packing")
    packing_strategy: str = not_here("packing_strategy")
    eval_packing: bool | None = not_here("eval_packing")
    shuffle_dataset: bool = not_here("shuffle_dataset")
    dataset_kwargs: dict[str, Any] | str | None = not_here("dataset_kwargs")


TRAINER_ARGUMENTS: dict[str, str] = {
    "data_collator": "rows are collated into prefopt's own Batch: change the rows (or `encode_dataset`) instead",
    "compute_loss_func": (
        "a loss is an Objective, whose method `loss` receives log-probs instead of logits: write one and run it by "
        "PreferenceTrainer(model, MyObjective(), args, ...)"
    ),
    "preprocess_logits_for_metrics": (
        "no logits are kept: compute_metrics receives EvalPrediction(predictions=(logps, rewards))"
    ),
}
"""Arguments of TRL's trainers that these cannot use -> why, and what to do instead."""


def check_trainer_arguments(given: Mapping[str, Any]) -> None:
    """Refuse arguments of TRL's trainers that these cannot use, and that are not None.

    Raises:
        ValueError: there is one; the message says what to do instead.
    """
    for name, instead in TRAINER_ARGUMENTS.items():
        if given.get(name) is not None:
            raise ValueError(f"{name} is not offered: {instead}")

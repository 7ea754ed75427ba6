"""Generation configs that transformers would not save again, repaired or refused when their model comes in.

Copies of Llama 2 and others say `do_sample=false` beside a temperature. transformers loads that and warns; once
anything in the config has changed, as training changes its special tokens, saving the model raises: after the run.
"""

from __future__ import annotations

import logging

from torch import nn
from transformers import GenerationConfig

logger = logging.getLogger(__name__)

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Settings that only sampling reads."""
BEAMS = ("early_stopping", "length_penalty")
"""Settings that only beam search reads."""


def repair_generation_config(model: nn.Module) -> None:
    """Drop the settings that a model's generation config has and its way of decoding never reads, in place.

    What is generated with the config stays the same.

    Args:
        model: with or without an adapter, which may bring a config of its own.

    Raises:
        ValueError: transformers would not save the config even so; the message has its reason.
    """
    configs = {id(config): config for module in model.modules() if (config := vars(module).get("generation_config"))}
    for config in configs.values():
        if isinstance(config, GenerationConfig) and _complaint(config) is not None:
            _repair(model, config)


def _repair(model: nn.Module, config: GenerationConfig) -> None:
    dropped = [name for name in _unread(config) if getattr(config, name, None) is not None]
    settings = ", ".join(f"{name}={getattr(config, name)}" for name in dropped)
    for name in dropped:
        setattr(config, name, None)
    if (complaint := _complaint(config)) is not None:
        raise ValueError(
            f"the generation_config of {type(model).__name__} is one that transformers refuses to save, so a trained "
            f"model could not be saved with it: mend model.generation_config or generation_config.json. {complaint}"
        )
    logger.warning(
        "the generation_config of %s has settings that it never reads, with which transformers would not save the "
        "model: %s taken out",
        type(model).__name__,
        settings,
    )


def _unread(config: GenerationConfig) -> tuple[str, ...]:
    sampling = () if config.do_sample else SAMPLING
    beams = () if (config.num_beams or 1) > 1 else BEAMS
    flags = () if config.return_dict_in_generate else config.extra_output_flags
    outputs = [name for name in flags if getattr(config, name)]
    padding = ("pad_token_id",) if (config.pad_token_id or 0) < 0 else ()  # Llama 1's -1 stands for none
    return (*sampling, *beams, *outputs, *padding)


def _complaint(config: GenerationConfig) -> str | None:
    """Why transformers would not save the config, or None if it would."""
    try:
        config.validate(strict=True)
    except ValueError as error:
        return " ".join(str(error).split())
    return None

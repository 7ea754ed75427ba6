"""What a trainer's arguments were made into, before anything trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..models.critic import critic_of
from ..models.reference import FrozenModel, Reference
from ..models.shared_critic import SharedCritic
from ..objectives.base import Objective
from ..scoring.scorer import Scorer


@dataclass(frozen=True)
class Built:
    """What `build` made of a trainer's arguments."""

    objective: Objective
    model: Any
    """With the critic, where the objective trains one."""
    tokenizer: PreTrainedTokenizerBase
    reference: Reference | None
    scorer: Scorer | None
    demonstrations: Any = None
    """Encoded rows of good answers, where the objective mixes them in."""


def models_of(model: Any, reference: Reference | None) -> Iterator[Any]:
    """All that have a backbone of their own."""
    yield model
    critic = critic_of(model)
    if critic is not None and not isinstance(critic, SharedCritic):
        yield critic
    if isinstance(reference, FrozenModel):
        yield reference.model

"""Which parts a trainer has, by what it trains: the only place that knows of all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..models.critic import critic_of
from .built import Built
from .config import PreferenceConfig
from .iterative.source import IterationSource
from .one_model import OneModel
from .ppo.source import RolloutSource
from .ppo.two_models import PolicyAndCritic
from .source import Host, Source
from .step import StepRunner


def source_for(host: Host, built: Built) -> Source:
    """Rows that are there, unless a scorer says what generated ones are worth: then rollouts, or iterations."""
    if built.scorer is None:
        return Source(host)
    if built.objective.on_policy:
        return RolloutSource(host, built.scorer, built.demonstrations)
    return IterationSource(host, built.scorer)


def trained_by(model: Callable[[], Any], args: PreferenceConfig, step: StepRunner) -> OneModel:
    """One model, unless a critic trains with it."""
    return OneModel(model, args) if critic_of(model()) is None else PolicyAndCritic(model, args, step)

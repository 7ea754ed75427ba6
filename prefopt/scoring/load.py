"""From whatever a user names as a scorer to a scorer. This stands above the kinds of scorers and imports them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from .reward_model import RewardModelScorer
from .scorer import CallableScorer, Scorer


def scorer_from(source: Any, **options: Any) -> Scorer:
    """A scorer from a reward model (path, hub id or model), any callable, or a scorer, which is returned as it is.

    Args:
        options: for `RewardModelScorer` or `CallableScorer`, such as `tokenizer` or `fingerprint`.

    Raises:
        TypeError: nothing of this kind, or options for a ready scorer.
    """
    if isinstance(source, str | Path | nn.Module):
        return RewardModelScorer(source, **options)
    if callable(getattr(type(source), "score", None)):
        if options:
            raise TypeError(f"{', '.join(options)} cannot be set on {type(source).__name__}, a ready scorer")
        return source
    if callable(source) and not isinstance(source, type):
        return CallableScorer(source, **options)
    raise TypeError(
        f"{source!r} is no scorer: give the path, hub id or model of a reward model, a function of (prompts, "
        "responses), or an object with name, fingerprint and score(prompts, responses, finished)"
    )

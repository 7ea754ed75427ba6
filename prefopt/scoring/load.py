"""`scorer_from`: turns a path, a model or a function into a scorer. This module imports all kinds of scorers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..utils.extensions import is_named, load_named
from .http import is_service, service_from
from .reward_model import RewardModelScorer
from .scorer import CallableScorer, Scorer


def scorer_from(source: Any, **options: Any) -> Scorer:
    """Turns whatever a user may name into a scorer.

    Args:
        source: the path, hub id or model of a reward model; the URL of a service, or a mapping with its `url` and
            other fields of `HTTPScorer`; any callable, itself or as `module:name`; or a scorer, which is returned as it
            is.
        options: for `RewardModelScorer`, `HTTPScorer` or `CallableScorer`, such as `tokenizer` or `fingerprint`.

    Raises:
        TypeError: a source of none of these kinds, or options for a ready scorer.
        ValueError: settings of a service that cannot be, or a module or name that does not exist.
    """
    if is_service(source):
        return service_from(source, **options)
    if isinstance(source, str) and is_named(source):
        source = load_named(source, "scorer")
    if isinstance(source, str | Path | nn.Module):
        return RewardModelScorer(source, **options)
    if callable(getattr(type(source), "score", None)):
        if options:
            raise TypeError(f"{', '.join(options)} cannot be set on {type(source).__name__}, a ready scorer")
        return source
    if callable(source) and not isinstance(source, type):
        return CallableScorer(source, **options)
    if isinstance(source, Mapping):
        raise TypeError(f"a mapping with {', '.join(map(str, source)) or 'nothing'} is no scorer: a service has a url")
    raise TypeError(
        f"{source!r} is no scorer: give the path, hub id or model of a reward model, the URL of a service, a function "
        "of (prompts, responses), or an object with name, fingerprint and score(prompts, responses, finished)"
    )

"""The scorer that `--scorer` names: a reward model, or a function of a user's module."""

from __future__ import annotations

import os
from typing import Any

from ..scoring.http import is_service, service_from
from ..scoring.load import scorer_from
from ..scoring.scorer import Scorer
from ..training.arguments import ScorerArguments
from ..utils.extensions import is_named, load_named
from .models import check_place, check_without, named

WHAT = (
    "a reward model (a folder or a hub id), the URL of a service, or a function of (prompts, responses) as module:name"
)


def check_scorer(arguments: ScorerArguments, needed: bool = True) -> None:
    """Refuse a scorer that is missing or does not exist, before anything slow."""
    given = arguments.scorer
    if isinstance(given, dict) or (given is not None and is_service(given)):
        return _check_service(given, arguments)
    name = named("scorer", given, WHAT) if needed else given or ""
    if not name:
        check_without("scorer", arguments, ["scorer_dtype"])
    elif not is_named(name):
        check_place("--scorer", name)
    elif function_of(name) and arguments.scorer_dtype != ScorerArguments.scorer_dtype:
        raise ValueError("--scorer_dtype is for a reward model, and a function has no weights: leave it out")


def _check_service(given: Any, arguments: ScorerArguments) -> None:
    service_from(given).check_key()
    if arguments.scorer_dtype != ScorerArguments.scorer_dtype:
        raise ValueError("--scorer_dtype is for a reward model that is loaded here, and a service is not: leave it out")


def load_scorer(arguments: ScorerArguments) -> Scorer | None:
    """The scorer, None where none was asked for."""
    if arguments.scorer is None:
        return None
    if isinstance(arguments.scorer, dict) or is_service(arguments.scorer):
        return scorer_from(arguments.scorer)
    if is_named(arguments.scorer):
        return scorer_from(function_of(arguments.scorer))
    return scorer_from(os.path.expanduser(arguments.scorer), dtype=arguments.scorer_dtype)


def function_of(name: str) -> Any:
    """What `module:name` names: a function of (prompts, responses), or a scorer.

    Raises:
        ValueError: there is no such module or name, or it is something else.
    """
    found = load_named(name, "--scorer")
    if isinstance(found, type) or not (callable(found) or callable(getattr(found, "score", None))):
        raise ValueError(f"--scorer {name}: this is {found!r}: name a function of (prompts, responses), or a scorer")
    return found

"""The scorer that `--scorer` names: a reward model, or a function in somebody's module. Knows not who asks for it."""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module
from typing import Any

from ..scoring.load import scorer_from
from ..scoring.scorer import Scorer
from ..training.arguments import ScorerArguments
from .models import check_place, check_without, named

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
WHAT = "a reward model (a folder or a hub id), or a function of (prompts, responses) as module:name"


def check_scorer(arguments: ScorerArguments, needed: bool = True) -> None:
    """Refuse one that is missing or not there, before anything slow."""
    name = named("scorer", arguments.scorer, WHAT) if needed else arguments.scorer or ""
    if not name:
        check_without("scorer", arguments, ["scorer_dtype"])
    elif not FUNCTION.fullmatch(name):
        check_place("scorer", name)
    elif function_of(name) and arguments.scorer_dtype != ScorerArguments.scorer_dtype:
        raise ValueError("--scorer_dtype is for a reward model, and a function has no weights: leave it out")


def load_scorer(arguments: ScorerArguments) -> Scorer | None:
    """The scorer, None where none was asked for."""
    if arguments.scorer is None:
        return None
    if FUNCTION.fullmatch(arguments.scorer):
        return scorer_from(function_of(arguments.scorer))
    return scorer_from(os.path.expanduser(arguments.scorer), dtype=arguments.scorer_dtype)


def function_of(name: str) -> Any:
    """What `module:name` names: a function or a scorer.

    Raises:
        ValueError: there is no such module or name, or it is something else.
    """
    place, _, path = name.partition(":")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())  # as `python -m` does; an installed program's path lacks it
    try:
        module = import_module(place)
    except ImportError as error:
        raise ValueError(f"--scorer {name}: cannot import {place} from {os.getcwd()} or elsewhere: {error}") from error
    found: Any = module
    for part in path.split("."):
        if part not in dir(found):
            raise ValueError(f"--scorer {name}: {place} has no {path}; its functions are {_functions(module)}")
        found = getattr(found, part)
    if isinstance(found, type) or not (callable(found) or callable(getattr(found, "score", None))):
        raise ValueError(f"--scorer {name}: this is {found!r}: name a function of (prompts, responses), or a scorer")
    return found


def _functions(module: Any) -> str:
    """Those that the module itself defines."""
    own = {key: value for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    return ", ".join(key for key, value in own.items() if callable(value) and not key.startswith("_")) or "none"

"""What a plan calls a judge, as one that can judge: scores, a function, or a language model behind an endpoint.

Knows names and settings; judging is the business of `versus.py` and `endpoint.py`.
"""

from __future__ import annotations

import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from ...data.readers import HUB_ID
from ...utils.fingerprint import fingerprint_of_code
from ..plan.sections import built
from .endpoint import Endpoint, ask
from .versus import COLUMNS, ColumnJudge, OrdersJudge, ScorerJudge, verdicts
from .versus import PairJudge as PairJudge

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
WHAT = (
    "give `score`, `gold`, a reward model (a folder or a hub id), a function of (prompts, responses) or of (prompts, "
    "first, second) as module:function, or a mapping with `endpoint` and `model`"
)


def judge_from(spec: Any, *, folder: str | Path, progress: bool = False) -> PairJudge:
    """A judge as a plan names it.

    "score"                     the column of that name: what the reward model of the seed gave
    "gold"                      the world's own reward
    "my_pkg.judges:function"    of (prompts, responses), which gives scores, or of (prompts, first, second), which gives
                                1, 1/2 or 0 for the first and is asked in both orders; or a Scorer or a PairJudge
    "path", "owner/name"        a reward model
    {judge: one of these, tolerance: 0.1, name: mine}
    {endpoint: URL, model: NAME, key_env: VARIABLE, ...}    a language model: the fields of `endpoint.Endpoint`

    Anything that is no text is taken as what a module:function would name.

    Args:
        folder: where the answers of an endpoint are kept.

    Raises:
        ValueError: nothing of the kind; a setting that there is not; a key that is missing.
    """
    if isinstance(spec, Mapping) and "judge" in spec:
        scored = built(_Scored, spec, "judges")
        return _judge(scored.judge, scored)
    if isinstance(spec, Mapping):
        settings = built(Endpoint, spec, "judges")
        asking = partial(ask, settings, folder=Path(folder), progress=progress)
        return OrdersJudge(settings.name or settings.model, "endpoint", settings.fingerprint, asking)
    return _judge(spec, _Scored(judge=spec))


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """The long form of a judge that is no endpoint."""

    judge: Any
    tolerance: float | None = None
    name: str | None = None


def _judge(spec: Any, given: _Scored) -> PairJudge:
    tolerance, name = given.tolerance or 0.0, given.name or ""
    if tolerance < 0:
        raise ValueError(f"judges: tolerance={tolerance} must not be negative")
    if isinstance(spec, str) and spec in COLUMNS:
        return ColumnJudge(spec, tolerance, name)
    if isinstance(spec, str) and not FUNCTION.fullmatch(spec):
        return ScorerJudge(_model(spec), tolerance, name)
    found = _named(spec) if isinstance(spec, str) else spec
    if callable(getattr(type(found), "judge", None)):
        if given.tolerance is not None or given.name is not None:
            raise ValueError(f"judges: {spec}: this is a ready judge, with a name and ties of its own: give it alone")
        return found
    name = name or (spec if isinstance(spec, str) else str(getattr(found, "__name__", "")))
    if not _pairwise(found):
        return ScorerJudge(found, tolerance, name)
    if given.tolerance is not None:
        raise ValueError(f"judges: {spec}: a tolerance is for scores, and this one says itself which responses tie")
    name = name or type(found).__name__
    return OrdersJudge(name, "function", fingerprint_of_code(found), partial(verdicts, found, name))


def _model(spec: str) -> str:
    """The place of a reward model, which is not loaded yet."""
    place = os.path.expanduser(spec)
    if Path(place).exists():
        return place
    if near := get_close_matches(spec, COLUMNS, n=1):
        raise ValueError(f"judges: there is no {spec!r}; did you mean {near[0]}? Or {WHAT}")
    if not HUB_ID.fullmatch(spec):
        raise ValueError(f"judges: {spec!r} is no folder here and no hub id: {WHAT}")
    return spec


def _named(spec: str) -> Any:
    """What `module:function` names."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())  # as `python -m` does; an installed program's path lacks it
    try:
        return pkgutil.resolve_name(spec)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"judges: {spec}: not found from {os.getcwd()} or elsewhere: {error}") from error


def _pairwise(found: Any) -> bool:
    """Whether this is a function of (prompts, first, second), and not a scorer.

    Raises:
        ValueError: it is neither.
    """
    if callable(getattr(type(found), "score", None)):
        return False
    if not callable(found) or isinstance(found, type):
        raise ValueError(f"judges: {found!r} is no judge: {WHAT}")
    needed = [
        each.name
        for each in inspect.signature(found).parameters.values()
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) and each.default is each.empty
    ]
    count = len([name for name in needed if name != "finished"])  # which a scorer may ask for
    if count not in (2, 3):
        raise ValueError(f"judges: {found!r} takes ({', '.join(needed)}): {WHAT}")
    return count == 3

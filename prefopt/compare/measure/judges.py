"""Makes a judge from what a plan calls it: a score, a reward model, a function, a language model behind an endpoint."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...data.reading import HUB_ID
from ...scoring.http import is_service, service_from
from ...utils.extensions import is_named, load_named
from ...utils.fingerprint import fingerprint_of_code
from ...utils.names import did_you_mean
from ...utils.visible import shown
from ..plan import built, judge_key, kept_imports
from .endpoint import Endpoint, ask
from .pairwise_judges import COLUMNS, ColumnJudge, OrdersJudge, ScorerJudge, verdicts
from .pairwise_judges import PairJudge as PairJudge

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
WHAT = (
    "give `score`, `gold`, a reward model (a folder, a hub id or a service's URL), a function of (prompts, responses) "
    "or of (prompts, first, second) as module:function, or a mapping with `endpoint` and `model`"
)


def judge_from(spec: Any, *, folder: str | Path, progress: bool = False) -> PairJudge:
    """A judge as a plan names it.

    "score"                     the column of that name: the scores by the reward model of the seed
    "gold"                      the gold reward of the synthetic task
    "my_pkg.judges:function"    of (prompts, responses), which gives scores, or of (prompts, first, second), which gives
                                1, 1/2 or 0 for the first and is asked in both orders; or a Scorer or a PairJudge
    "path", "owner/name"        a reward model
    {judge: one of these, tolerance: 0.1, name: mine}
    "http://host:8000/pooling", {url: URL, key_env: VARIABLE, ...}    a service that scores: see `scoring.HTTPScorer`
    {endpoint: URL, model: NAME, key_env: VARIABLE, ...}    a language model: the fields of `endpoint.Endpoint`

    Anything that is no text is taken as what a module:function would name.

    Args:
        folder: where the answers of an endpoint are kept.

    Raises:
        ValueError: there is no such judge, or no such setting, or the endpoint's key is missing.
    """
    if isinstance(spec, Mapping) and "judge" in spec:
        scored = built(_Scored, spec, "judges")
        return _judge(scored.judge, scored)
    if is_service(spec):
        return _judge(spec, _Scored(judge=spec))
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


@dataclass(frozen=True)
class _Recorded:
    """A judge whose code is not imported: its judgements are there already."""

    name: str
    kind: str
    fingerprint: str

    def judge(self, prompts: Any, ours: Any, theirs: Any) -> Any:
        raise ValueError(f"{self.name}: this judge is not imported, so it cannot be asked")


def kept_of_judge(spec: Any, folder: Path) -> tuple[str, dict[str, str]] | None:
    """What is kept of a judge whose code the plan names, with its key; None of any other judge."""
    given = built(_Scored, spec, "judges") if isinstance(spec, Mapping) and "judge" in spec else _Scored(judge=spec)
    if not isinstance(given.judge, str) or given.judge in COLUMNS or not is_named(given.judge):
        return None
    judge = judge_from(spec, folder=folder)
    key = judge_key(given.judge, given.tolerance or 0.0, given.name or "")
    return key, {"name": judge.name, "kind": judge.kind, "fingerprint": judge.fingerprint}


def _judge(spec: Any, given: _Scored) -> PairJudge:
    tolerance, name = given.tolerance or 0.0, given.name or ""
    if tolerance < 0:
        raise ValueError(f"judges: tolerance={tolerance} must not be negative")
    if is_service(spec):
        return ScorerJudge(service_from(spec), tolerance, name)
    if isinstance(spec, str) and spec in COLUMNS:
        return ColumnJudge(spec, tolerance, name)
    if isinstance(spec, str) and not is_named(spec):
        return ScorerJudge(_model(spec), tolerance, name)
    if isinstance(spec, str) and (kept := kept_imports()) is not None:
        return _Recorded(**kept.judge(spec, tolerance, name))
    judge = load_named(spec, "judges:") if isinstance(spec, str) else spec
    if callable(getattr(type(judge), "judge", None)):
        if given.tolerance is not None or given.name is not None:
            raise ValueError(f"judges: {spec}: this is a ready judge, with a name and ties of its own: give it alone")
        return judge
    name = name or (spec if isinstance(spec, str) else str(getattr(judge, "__name__", "")))
    if not _is_pairwise(judge):
        return ScorerJudge(judge, tolerance, name)
    if given.tolerance is not None:
        raise ValueError(f"judges: {spec}: a tolerance is for scores, and this one says itself which responses tie")
    name = name or type(judge).__name__
    return OrdersJudge(name, "function", fingerprint_of_code(judge), partial(verdicts, judge, name))


def _model(spec: str) -> str:
    """The folder or hub id of a reward model, which is not loaded yet."""
    place = os.path.expanduser(spec)
    if Path(place).exists():
        return place
    if meant := did_you_mean(spec, COLUMNS, most=1):
        raise ValueError(f"judges: there is no {spec!r}; {meant} Or {WHAT}")
    if not HUB_ID.fullmatch(spec):
        raise ValueError(f"judges: {spec!r} is no folder here and no hub id: {WHAT}")
    return spec


def _is_pairwise(judge: Any) -> bool:
    """Whether this is a function of (prompts, first, second), and not a scorer.

    Raises:
        ValueError: it is neither.
    """
    if callable(getattr(type(judge), "score", None)):
        return False
    if not callable(judge) or isinstance(judge, type):
        raise ValueError(f"judges: {shown(judge)} is no judge: {WHAT}")
    needed = [
        parameter.name
        for parameter in inspect.signature(judge).parameters.values()
        if parameter.kind in POSITIONAL and parameter.default is parameter.empty
    ]
    count = len([name for name in needed if name != "finished"])  # which a scorer may ask for
    if count not in (2, 3):
        raise ValueError(f"judges: {judge!r} takes ({', '.join(needed)}): {WHAT}")
    return count == 3

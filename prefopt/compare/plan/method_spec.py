"""How a method of a plan is carried out: which trainer, which arguments. Trains nothing.

A method is any name that `objectives.load` knows or can load from a stranger's file, and two that train nothing: the
baseline and best-of-n.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from ...objectives.base import Objective, load, registry
from ...objectives.sampling_arguments import IterationArguments, SamplingArguments
from ...training import trainers
from ...training.config import PreferenceConfig
from ...training.trainer import PreferenceTrainer
from ...utils.fingerprint import fingerprint_of_values
from .sections import PlanError, nearest

BASELINE = "sft"
BEST_OF_N = "best-of-n"
NAMED = (
    trainers.DPOTrainer,
    trainers.RewardTrainer,
    trainers.RejectionSamplingTrainer,
    trainers.RRHFTrainer,
    trainers.PPOTrainer,
    trainers.SFTTrainer,
)
OWN = {"method", "scorer"}
"""Settings that are the plan's own; the others are a trainer's."""
FIXED = {"seed", "data_seed", "output_dir", "model_init_kwargs", "resume_from_checkpoint", "push_to_hub", "report_to"}
"""What the comparison itself decides, the same way for all."""
REWARD_MODEL = "reward-model"
"""What the report calls the seeds' reward models: no method may have this name."""


@dataclass(frozen=True)
class Way:
    """A method with its settings.

    Args:
        name: as the plan calls it.
        method: BASELINE, BEST_OF_N, or a name for `objectives.load`.
        settings: those that the plan gave for it.
        arguments: of the trainer's config: `settings`, those for all methods, and what the name stands for.
        n: of best-of-n.
        scored: it needs the reward model: to train, or to choose.
    """

    name: str
    method: str
    settings: Mapping[str, Any]
    arguments: Mapping[str, Any]
    n: int = 1
    scored: bool = False

    @property
    def trains(self) -> bool:
        return self.method not in (BASELINE, BEST_OF_N)

    @property
    def objective(self) -> Objective:
        return load(self.method)

    @property
    def trainer(self) -> Any:
        """The trainer's type, None for an objective that has none of its own."""
        return trainer_of(self.objective)

    @property
    def config(self) -> Any:
        """The type of the trainer's arguments."""
        return self.trainer.config if self.trainer else PreferenceConfig

    @property
    def draws(self) -> bool:
        """Whether it trains on responses of its own."""
        return self.scored and self.trains

    @property
    def identity(self) -> str:
        """What changes when a stranger's objective does: of the files that declare it and its class."""
        if not self.trains or self.method in registry():
            return ""
        module = sys.modules[self.method.partition(":")[0]]
        files = {inspect.getsourcefile(each) or "" for each in (module, type(self.objective))}
        return fingerprint_of_values([Path(file).read_text("utf-8") for file in sorted(files - {""})])


TAKEN = {REWARD_MODEL: "the seeds' reward models", BASELINE: "the policy that all methods start from"}


def trainer_of(objective: Objective) -> Any:
    return next((each for each in NAMED if each.objective_type is type(objective)), None)


def way_of(name: str, given: Mapping[str, Any], common: Mapping[str, Any]) -> Way:
    """The way in which a plan's method is carried out.

    Args:
        common: settings of all methods; those that this one has not are not for it.

    Raises:
        PlanError: no such method, or a setting that it does not have.
    """
    if not isinstance(given, Mapping):
        raise PlanError(f"methods: {name}: given {given!r}; write its settings as `name: value`, or {{}}")
    method = str(given.get("method", name))
    if name == REWARD_MODEL or (name == BASELINE and method != BASELINE):
        raise PlanError(
            f"methods: {name}: this name is taken, for {TAKEN[name]}: choose another, with `method: {method}`"
        )
    settings = {key: value for key, value in given.items() if key != "method"}
    if method in (BASELINE, BEST_OF_N):
        return _untrained(name, method, settings)
    objective = _objective(method, name)
    known = _known(objective)
    check_settings(f"methods: {name}", settings, known | OWN)
    scored = _scored(objective, settings, name)
    own = {key: value for key, value in settings.items() if key not in OWN}
    unused = set() if scored else {field.name for field in fields(IterationArguments)}
    shared = {key: value for key, value in common.items() if key in known - unused}
    return Way(name, method, settings, _stood_for(objective) | shared | own, scored=scored)


def check_settings(where: str, settings: Iterable[str], known: set[str]) -> None:
    """Refuse a setting that is none of the known ones, or one that the comparison decides."""
    for key in settings:
        if key in FIXED:
            raise PlanError(f"{where}: {key} is decided by the comparison, alike for all methods: leave it out")
        if key not in known:
            raise PlanError(f"{where}: there is no setting {key!r}{nearest(str(key), sorted(known - FIXED))}")


def _untrained(name: str, method: str, settings: Mapping[str, Any]) -> Way:
    allowed = {"n"} if method == BEST_OF_N else set()
    for key in settings:
        if key not in allowed:
            raise PlanError(f"methods: {name}: {method} trains nothing and has no setting {key!r}")
    n = settings.get("n", 16)
    if method == BEST_OF_N and (not isinstance(n, int) or n < 2):
        raise PlanError(f"methods: {name}: n={n!r}; the best of how many? give 2 or more")
    return Way(name, method, settings, {}, n if method == BEST_OF_N else 1, method == BEST_OF_N)


def _objective(method: str, name: str) -> Objective:
    try:
        objective = load(method)
    except (ValueError, ImportError) as error:
        known = [BASELINE, BEST_OF_N, *sorted(registry())]
        hint = nearest(method, known) if "unknown objective" in str(error) else f": {error}"
        raise PlanError(f"methods: {name}: there is no method {method!r}{hint}") from error
    if objective.trains == "scorer":
        raise PlanError(f"methods: {name}: {method} trains a reward model, which is a stage: write its settings there")
    return objective


def _known(objective: Objective) -> set[str]:
    """Every setting that a method with this objective has."""
    trainer = trainer_of(objective)
    return _fields(objective) | {
        field.name for field in fields(trainer.config if trainer else PreferenceConfig) if field.init
    }


def _stood_for(objective: Objective) -> dict[str, Any]:
    """What a name stands for, as `simpo` for a loss of DPO's: the fields that differ from the objective's own."""
    if trainer_of(objective) is None or not is_dataclass(objective):
        return {}
    plain: Any = type(objective)()
    values = {field.name: getattr(objective, field.name) for field in fields(objective)}
    return {name: value for name, value in values.items() if value != getattr(plain, name)}


def _scored(objective: Objective, settings: Mapping[str, Any], name: str) -> bool:
    """Whether it draws responses for a reward model to judge: where it must, or may and is not told not to."""
    asked = settings.get("scorer", True)
    if not isinstance(asked, bool):
        raise PlanError(f"methods: {name}: scorer={asked!r}; true or false: the plan's reward model judges")
    if "scorer" in objective.needs and not asked:
        raise PlanError(f"methods: {name}: it draws responses, which somebody has to judge: leave `scorer: false` out")
    return "scorer" in objective.needs or (asked and isinstance(objective, SamplingArguments))


def objective_of(way: Way) -> Objective:
    """The objective with the plan's settings for it."""
    objective: Any = way.objective
    names = _fields(objective) & set(way.arguments)
    return replace(objective, **{name: way.arguments[name] for name in names}) if names else objective


def trainer_for(way: Way, model: Any, arguments: Mapping[str, Any], **more: Any) -> Any:
    """The trainer of a way.

    Args:
        arguments: for its config, before which the plan's settings come.
        more: for the trainer, such as datasets.
    """
    arguments = {**arguments, **way.arguments}
    if way.trainer is not None:
        return way.trainer(model, args=way.config(**arguments), **more)
    own = _fields(way.objective)
    args = PreferenceConfig(**{name: value for name, value in arguments.items() if name not in own})
    return PreferenceTrainer(model, objective_of(way), args, **more)


def _fields(objective: Any) -> set[str]:
    return {field.name for field in fields(objective)} if is_dataclass(objective) else set()

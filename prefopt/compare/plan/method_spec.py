"""Says how a method of a plan is trained: by which trainer, with which arguments.

A method is any name that `objectives.load` knows or can load from a user's file, and three that train nothing: the
baseline, best-of-n, and a checkpoint, a policy that was trained elsewhere.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from ...objectives.base import OLD_NAMES, Objective, load, module_of, registry
from ...objectives.sampling_arguments import IterationArguments, SamplingArguments
from ...training.config import PreferenceConfig
from ...training.declarations import named_trainers
from ...training.setting_names import ALIASES
from ...training.trainer import PreferenceTrainer
from ...utils.fingerprint import fingerprint_of_values
from ...utils.names import hint
from ...utils.visible import shown
from .imported import kept_imports
from .sections import PlanError

PACKAGE = Path(__file__).resolve().parents[2]
BASELINE = "sft"
BEST_OF_N = "best-of-n"
CHECKPOINT = "checkpoint"
UNTRAINED = {BASELINE: (), BEST_OF_N: ("n",), CHECKPOINT: ("policy",)}
"""The methods that train nothing -> their settings."""
PLAN_SETTINGS = {"method", "scorer"}
"""Settings of a method that the plan itself reads; all others are arguments of the trainer."""
FIXED_SETTINGS = {
    "seed",
    "data_seed",
    "output_dir",
    "model_init_kwargs",
    "resume_from_checkpoint",
    "push_to_hub",
    "report_to",
}
"""Settings that the comparison decides, alike for all methods."""
REWARD_MODEL = "reward-model"
"""The name of the seeds' reward models in the report."""
RESERVED_NAMES = {REWARD_MODEL: "the seeds' reward models", BASELINE: "the policy that all methods start from"}


@dataclass(frozen=True)
class MethodSpec:
    """What the plan says of one method, with all that follows from it.

    Args:
        name: the plan's name for the method.
        method: BASELINE, BEST_OF_N, CHECKPOINT, or a name for `objectives.load`.
        settings: the settings that the plan gives for this method.
        arguments: for the trainer's config: `settings`, the settings for all methods, and what the name stands for.
        recorded: what an earlier run has kept of a user's objective, where that is not imported; else None.
        n: the number of responses of best-of-n, of which the best is taken.
        policy: the path or hub id of a checkpoint.
        needs_reward_model: whether the method needs the reward model, to train or to choose a response.
    """

    name: str
    method: str
    settings: Mapping[str, Any]
    arguments: Mapping[str, Any]
    n: int = 1
    policy: str | None = None
    needs_reward_model: bool = False
    recorded: Mapping[str, Any] | None = None

    @property
    def trains(self) -> bool:
        return self.method not in UNTRAINED

    @property
    def objective(self) -> Objective:
        return load(self.method)

    @property
    def trainer(self) -> Any:
        """The type of the trainer, None for an objective without a trainer of its own."""
        return trainer_of(self.objective)

    @property
    def config(self) -> Any:
        """The type of the trainer's arguments."""
        return self.trainer.config if self.trainer else PreferenceConfig

    @property
    def generates(self) -> bool:
        """Whether the method trains on responses that it generates itself."""
        return self.needs_reward_model and self.trains

    @property
    def source_fingerprint(self) -> str:
        """A hash of the user's files that declare the objective and its class; "" for an objective of prefopt's own.

        Prefopt's own files are left out: another version of them is no other method.
        """
        if self.recorded is not None:
            return str(self.recorded["source"])
        if not self.trains or self.method in registry() | OLD_NAMES:
            return ""
        module = sys.modules[self.method.partition(":")[0]]
        files = {Path(inspect.getsourcefile(declared) or "") for declared in (module, type(self.objective))}
        own = [path for path in files if path.is_file() and not path.is_relative_to(PACKAGE)]
        return fingerprint_of_values([path.read_text("utf-8") for path in sorted(own, key=str)])


def trainer_of(objective: Objective) -> Any:
    """The named trainer of this kind of objective, None where there is none."""
    return next((trainer for trainer in named_trainers() if trainer.objective_type is type(objective)), None)


def make_method_spec(name: str, given: Mapping[str, Any], common: Mapping[str, Any]) -> MethodSpec:
    """Read how a method of a plan is trained.

    Args:
        name: the plan's name for the method.
        given: the plan's settings for this method.
        common: the settings for all methods; the method leaves out those that its trainer does not have.

    Raises:
        PlanError: there is no such method, or it has no such setting.
    """
    if not isinstance(given, Mapping):
        raise PlanError(f"methods: {name}: given {shown(given)}; write its settings as `name: value`, or {{}}")
    method = str(given.get("method", name))
    if name == REWARD_MODEL or (name == BASELINE and method != BASELINE):
        raise PlanError(
            f"methods: {name}: this name is taken, for {RESERVED_NAMES[name]}: choose another, with `method: {method}`"
        )
    settings = {key: value for key, value in given.items() if key != "method"}
    if method in UNTRAINED:
        return _untrained(name, method, settings)
    if (kept := kept_imports()) is not None and module_of(method) is not None:
        known_of = kept.method(name, method, settings, common)
        arguments, scored = known_of["arguments"], known_of["needs_reward_model"]
        return MethodSpec(name, method, settings, arguments, needs_reward_model=scored, recorded=known_of)
    objective = _objective(method, name)
    known = _settings_of(objective)
    check_settings(f"methods: {name}", settings, known | PLAN_SETTINGS)
    scored = _needs_reward_model(objective, settings, name)
    own = {key: value for key, value in settings.items() if key not in PLAN_SETTINGS}
    unused = set() if scored else {field.name for field in fields(IterationArguments)}
    shared = {key: value for key, value in common.items() if key in known - unused}
    arguments = _settings_behind_name(objective) | shared | own
    return MethodSpec(name, method, settings, arguments, needs_reward_model=scored)


def check_settings(where: str, settings: Iterable[str], known: set[str]) -> None:
    """Refuse a setting that is not among the known ones, or one that the comparison decides.

    Raises:
        PlanError: there is such a setting; the message begins with `where`.
    """
    for key in settings:
        if key in FIXED_SETTINGS:
            raise PlanError(f"{where}: {key} is decided by the comparison, alike for all methods: leave it out")
        if key not in known:
            meant = hint(str(key), sorted(known - FIXED_SETTINGS), ALIASES)
            raise PlanError(f"{where}: there is no setting {key!r}{meant}")


def _untrained(name: str, method: str, settings: Mapping[str, Any]) -> MethodSpec:
    for key in settings:
        if key not in UNTRAINED[method]:
            raise PlanError(f"methods: {name}: {method} trains nothing and has no setting {key!r}")
    policy = settings.get("policy")
    if method == CHECKPOINT and not isinstance(policy, str):
        raise PlanError(f"methods: {name}: policy={shown(policy)}; give the path or hub id of the checkpoint")
    n = settings.get("n", 16)
    if method == BEST_OF_N and (not isinstance(n, int) or n < 2):
        raise PlanError(f"methods: {name}: n={shown(n)}; the best of how many? give 2 or more")
    best = method == BEST_OF_N
    return MethodSpec(name, method, settings, {}, n if best else 1, policy, needs_reward_model=best)


def _objective(method: str, name: str) -> Objective:
    try:
        objective = load(method)
    except (ValueError, ImportError) as error:
        known = [*UNTRAINED, *sorted(registry())]
        meant = hint(method, known) if "unknown objective" in str(error) else f": {error}"
        raise PlanError(f"methods: {name}: there is no method {method!r}{meant}") from error
    if objective.trains == "scorer":
        raise PlanError(f"methods: {name}: {method} trains a reward model, which is a stage: write its settings there")
    return objective


def _settings_of(objective: Objective) -> set[str]:
    """The names of all settings that a method with this objective has."""
    trainer = trainer_of(objective)
    return _fields(objective) | {
        field.name for field in fields(trainer.config if trainer else PreferenceConfig) if field.init
    }


def _settings_behind_name(objective: Objective) -> dict[str, Any]:
    """The settings that a name such as `simpo` stands for: the fields that differ from the defaults of its type."""
    if trainer_of(objective) is None or not is_dataclass(objective):
        return {}
    default: Any = type(objective)()
    values = {field.name: getattr(objective, field.name) for field in fields(objective)}
    return {name: value for name, value in values.items() if value != getattr(default, name)}


def _needs_reward_model(objective: Objective, settings: Mapping[str, Any], name: str) -> bool:
    """Whether the method generates responses for the reward model to score: it must, or can and is not told not to."""
    wanted = settings.get("scorer", True)
    if not isinstance(wanted, bool):
        raise PlanError(f"methods: {name}: scorer={shown(wanted)}; true or false: the plan's reward model scores")
    if "scorer" in objective.needs and not wanted:
        raise PlanError(
            f"methods: {name}: it generates responses, which something has to score: leave `scorer: false` out"
        )
    return "scorer" in objective.needs or (wanted and isinstance(objective, SamplingArguments))


def objective_of(spec: MethodSpec) -> Objective:
    """The objective with the plan's settings for it."""
    objective: Any = spec.objective
    names = _fields(objective) & set(spec.arguments)
    return replace(objective, **{name: spec.arguments[name] for name in names}) if names else objective


def make_trainer(spec: MethodSpec, model: Any, arguments: Mapping[str, Any], **more: Any) -> Any:
    """The trainer of a method.

    Args:
        arguments: for the trainer's config; the plan's settings come before these.
        more: for the trainer itself, such as data sets.
    """
    arguments = {**arguments, **spec.arguments}
    if spec.trainer is not None:
        return spec.trainer(model, args=spec.config(**arguments), **more)
    own = _fields(spec.objective)
    args = PreferenceConfig(**{name: value for name, value in arguments.items() if name not in own})
    return PreferenceTrainer(model, objective_of(spec), args, **more)


def _fields(objective: Any) -> set[str]:
    return {field.name for field in fields(objective)} if is_dataclass(objective) else set()

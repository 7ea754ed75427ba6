"""One training of a round: by which trainer, on which rows, from which policy, against which reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..compare.plan import MethodSpec, PlanError, built, make_method_spec, objective_of
from ..compare.plan import make_trainer as make_method_trainer
from ..data.gatt import KINDS, sample_instructions
from ..objectives.sampling_arguments import SamplingArguments
from ..training.trainers import SFTConfig, SFTTrainer
from ..utils.names import hint

GATT = "gatt"
"""Ghost Attention: raises the likelihood of what the policy itself answers under an instruction, said only once."""
LIKELIHOOD = ("sft", "rejection-sampling")
"""What a round's training is called that raises the likelihood of the best responses: the round does all else of it."""
OWN = ("method", "init", "reference", "rows")


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """What the conversations of Ghost Attention are told to keep to, and how answers under it are sampled.

    Args:
        languages: of the instructions, "en" and "zh".
        kinds: what they are about, see `data.gatt.sample_instructions`.
        keep: leave out answers that do not keep to their instruction.
        temperature: at which answers are sampled.
        max_new_tokens: the longest answer; longer ones are left out.
    """

    languages: tuple[str, ...] = ("en", "zh")
    kinds: tuple[str, ...] = KINDS
    keep: bool = True
    temperature: float = 1.0
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        sample_instructions(0, languages=self.languages, kinds=self.kinds)
        SamplingArguments(temperature=self.temperature, max_new_tokens=self.max_new_tokens).check_sampling()


@dataclass(frozen=True)
class TrainingStage:
    """
    Args:
        method: as the plan calls it.
        spec: how the method is trained; None of the likelihood of the best responses.
        init: the policy that training starts from: "base", "previous", "v2", a path. Behind another training of the
            same round, "previous" is what that one ended with.
        reference: likewise, of methods that have one; None is the policy that training starts from.
        rows: "selected", the candidates that the round selected; "labels", the preferences of all rounds so far.
        settings: for the trainer's config.
        given: what the plan says of it, by which another process makes it again.
        responses: how many responses to a prompt the objective compares; None is a ranking of all.
        instructions: of Ghost Attention.
    """

    method: str
    spec: MethodSpec | None
    init: str
    reference: str | None
    rows: str
    settings: Mapping[str, Any]
    given: Mapping[str, Any]
    responses: int | None
    instructions: Instructions | None = None

    @property
    def on_policy(self) -> bool:
        """Whether the method samples its responses itself while it trains."""
        return self.spec is not None and bool(objective_of(self.spec).on_policy)

    @property
    def on_labels(self) -> bool:
        return self.rows == "labels"

    @property
    def on_selected(self) -> bool:
        """Whether it trains on what the round selects of its candidates."""
        return not self.on_policy and not self.on_labels and self.instructions is None

    @property
    def trains(self) -> str:
        return "policy" if self.spec is None else str(self.spec.objective.trains)


def training_stage(given: Any, training: Mapping[str, Any], where: str) -> TrainingStage:
    """
    Raises:
        PlanError: there is no such method or setting.
    """
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise PlanError(f"{where}: given {given!r}; write its settings as `name: value`, or a list of such")
    method = str(given.get("method", "rejection-sampling"))
    rows = str(given.get("rows", "selected"))
    if rows not in ("selected", "labels"):
        raise PlanError(f"{where}: rows={rows!r}: choose selected or labels")
    settings = {name: value for name, value in given.items() if name not in OWN}
    instructions = None
    if method == GATT:
        if "rows" in given or "reference" in given:
            raise PlanError(f"{where}: gatt makes its own rows, and has no reference: leave out `rows` and `reference`")
        own = {field.name: settings.pop(field.name) for field in fields(Instructions) if field.name in settings}
        shared = {name: training[name] for name in ("max_new_tokens",) if name in training}
        instructions = _instructions({**shared, **own}, where)
    if method in (*LIKELIHOOD, GATT):
        known = {field.name for field in fields(SFTConfig)}
        for name in settings:
            if name not in known:
                raise PlanError(f"{where}: there is no setting {name!r}{hint(str(name), sorted(known))}")
        shared = {name: value for name, value in training.items() if name in known}
        init, arguments, spec, responses = "base", {**shared, **settings}, None, 1
        if method == GATT:
            init = "previous"
    else:
        own = {"scorer": False} if _optional(method) else {}
        try:
            spec = make_method_spec(where, {"method": method, **own, **settings}, training)
        except PlanError as error:  # which a comparison has under `methods`
            raise PlanError(str(error).removeprefix("methods: ")) from error
        objective: Any = objective_of(spec)
        init, arguments, responses = "previous", dict(spec.arguments), objective.responses
    return TrainingStage(
        method,
        spec,
        str(given.get("init", init)),
        None if given.get("reference") is None else str(given["reference"]),
        rows,
        arguments,
        dict(given),
        responses,
        instructions,
    )


def _instructions(given: Mapping[str, Any], where: str) -> Instructions:
    try:
        return built(Instructions, given, where)
    except ValueError as error:
        raise error if isinstance(error, PlanError) else PlanError(f"{where}: {error}") from error


def _optional(method: str) -> bool:
    """Whether the method may sample its responses itself and need not: here the round does."""
    return method == "rrhf"


def make_trainer(stage: TrainingStage, model: Any, arguments: Mapping[str, Any], **more: Any) -> Any:
    """The trainer of a stage; the stage's settings come before the arguments."""
    if stage.spec is None:
        return SFTTrainer(model, args=SFTConfig(**{**arguments, **stage.settings}), **more)
    return make_method_trainer(stage.spec, model, arguments, **more)

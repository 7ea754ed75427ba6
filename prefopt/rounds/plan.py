"""Reads a plan of rounds, from a YAML file or from plain values, and checks it.

policy: HuggingFaceTB/SmolLM2-135M-Instruct
data: {train: hh/train.jsonl, test: hh/test.jsonl}
training: {max_length: 512, per_device_train_batch_size: 8}
round:
  prompts: {label: 200, sample: 1000}
  label: {by: people}
  reward: {num_train_epochs: 1, margin: small}
  sample: {responses_per_prompt: 8, temperatures: [0.8, 1.0, 1.2]}
  train: {method: rejection-sampling, learning_rate: 1e-5}
rounds:
  - {}
  - {}
  - train: [{method: rejection-sampling}, {method: ppo-max, max_steps: 200}]

`round` is what every round does; `rounds` says how many there are, or what each does otherwise. A stage that a round is
not to have is `null`. A stage is merged with that of `round` key by key; a list of trainings replaces what `round` has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..compare.plan import (
    TESTBED,
    Data,
    Evaluation,
    PlanError,
    built,
    check_launch,
    check_start,
    engine_in,
    read_values,
    with_sections,
)
from ..training.arguments import ModelConfig
from ..utils.extensions import is_named
from ..utils.names import hint
from ..utils.settings import plain
from .sections import (
    GOLD,
    OWN,
    STAGES,
    Label,
    Mix,
    Prompts,
    Round,
    Select,
    check_origin,
    reward_section,
    sample_section,
)
from .training_stage import training_stage

LAUNCHED = ("sft", "reward", "train")
"""What a launcher can start."""


@dataclass(frozen=True, kw_only=True)
class RoundsPlan:
    """The whole of a run of rounds.

    Args:
        policy: where v0 comes from: a path or hub id; "testbed" is the synthetic task's own, which needs `sft`.
        data: as of a comparison; `train` brings the prompts, and with `open` of a mix the pairs.
        sft: settings of supervised fine-tuning, which makes v0; None takes the policy as it is.
        model: fields of `ModelConfig`, such as `dtype` or `use_peft`.
        training: settings for every training that has them; `use_vllm` and its like are for all that is sampled
            between trainings.
        launch: the command of a launcher, as `torchrun --nproc_per_node 2`, by whose processes trainings are done
            together: one for all, or "sft", "reward" or "train" -> command.
        round: what every round does: stage -> settings.
        rounds: how many, or what each does otherwise.
        evaluation: how each version is measured, as of a comparison.
        seed: of everything that is random.
        stop_below: rounds end where a version's win rate against the one before is clearly below this.
    """

    title: str = "Rounds"
    policy: str
    data: Data
    round: Mapping[str, Any]
    rounds: Any = 1
    sft: Mapping[str, Any] | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    launch: Mapping[str, str] | str | None = None
    evaluation: Evaluation = Evaluation(curve_points=0)
    seed: int = 0
    stop_below: float | None = None

    def __post_init__(self) -> None:
        check_start(self.policy, self.data, self.sft)
        if self.data.train is None:
            raise PlanError("data: `train` is missing: rows that bring the rounds' prompts")
        built(ModelConfig, self.model, "model")
        engine_in(self.training, (self.evaluation.temperature,))
        if self.launch is not None:
            check_launch(self.launch, LAUNCHED if self.sft is not None else LAUNCHED[1:])

    @cached_property
    def each(self) -> tuple[Round, ...]:
        """What each round does.

        Raises:
            PlanError: something that no round can do; the message says in which.
        """
        given = (
            [{}] * self.rounds if isinstance(self.rounds, int) and not isinstance(self.rounds, bool) else self.rounds
        )
        if not isinstance(given, Sequence) or isinstance(given, str) or not given:
            raise PlanError(f"rounds: {self.rounds!r}: give how many, or a list of what each does otherwise")
        return tuple(self._round(number, own) for number, own in enumerate(given, 1))

    def _round(self, number: int, given: Any) -> Round:
        where = f"rounds: {number}"
        given = {} if given is None else given
        for place, stages in (("round", self.round), (where, given)):
            if not isinstance(stages, Mapping):
                raise PlanError(f"{place}: given {stages!r}; write its stages as `name: settings`")
            for name in stages:
                if name not in STAGES:
                    raise PlanError(f"{place}: there is no stage {name!r}{hint(str(name), STAGES)}")
        merged = {name: _merged(self.round.get(name, {}), given, name) for name in STAGES}
        own = {
            name: value.pop("stage") for name, value in merged.items() if isinstance(value, dict) and "stage" in value
        }
        for name, function in own.items():
            if name not in OWN or not is_named(str(function)):
                raise PlanError(f"{where}: {name}: stage={function!r}: module:function, of {', '.join(OWN)}")
        asked = merged["label"] if merged["label"] is not None and (merged["label"] or "label" in own) else None
        reward, sample, trainings = merged["reward"], merged["sample"], merged["train"]
        made = Round(
            number,
            built(Prompts, merged["prompts"] or {}, f"{where}: prompts"),
            None if asked is None else built(Label, asked, f"{where}: label"),
            None if reward is None else reward_section(reward, f"{where}: reward", self.training),
            None if sample is None else sample_section(sample, f"{where}: sample", self.training),
            built(Select, merged["select"] or {}, f"{where}: select"),
            tuple(
                training_stage(settings, self.training, f"{where}: train")
                for settings in (trainings if isinstance(trainings, list) else [trainings])
                if settings is not None
            ),
            own,
        )
        self._check(made, where)
        return made

    def _check(self, round: Round, where: str) -> None:
        if round.label is not None and not round.label.files and not round.prompts.label:
            raise PlanError(f"{where}: label: of how many prompts? give `prompts: {{label: 200}}`")
        if round.label is not None and round.label.by == GOLD and self.data.train != TESTBED:
            raise PlanError(f"{where}: label: the testbed's annotator knows the testbed alone")
        needs_scores = round.sample is not None or any(stage.on_policy for stage in round.train)
        if round.reward is None and needs_scores:
            raise PlanError(f"{where}: sampled responses are scored, and there is no reward model: give a `reward`")
        if round.reward is not None and not round.reward.scorer and not self._has_labels(round):
            raise PlanError(
                f"{where}: reward: there are no labels to learn from: give a `label`, or `mix: {{open: 1}}`"
            )
        if round.sample is None and any(stage.on_selected for stage in round.train):
            raise PlanError(f"{where}: train: on what? give a `sample`, or `rows: labels` to train on the labels")
        if round.reward is not None and round.reward.scorer is not None:
            check_origin(round.reward.scorer, round.number, f"{where}: reward: scorer")
        engine_in(self.training, _temperatures(round))
        for stage in round.train:
            for name in (stage.init, stage.reference):
                check_origin(name, round.number, f"{where}: train")
        for name in () if round.label is None else round.label.policies:
            check_origin(name, round.number, f"{where}: label: policies")

    def _has_labels(self, round: Round) -> bool:
        mix = round.reward.mix if round.reward else Mix()
        return round.label is not None or mix.open > 0 or round.number > 1

    @property
    def imports(self) -> list[tuple[str, str]]:
        """The modules that the plan has imported: where it names each, and its dotted path."""
        given = [("round", self.round), ("rounds", self.rounds), ("data: adapter", self.data.adapter)]
        named = [(where, text) for where, part in given for text in _texts(part) if is_named(text)]
        return list(dict.fromkeys((where, text.partition(":")[0]) for where, text in named))

    def plain(self) -> dict[str, Any]:
        """The plan as a YAML file holds it, without what has its default value."""
        return dict(plain(self))


def _temperatures(round: Round) -> list[float]:
    """At which a round samples."""
    sample, label = round.sample, round.label
    own = [] if sample is None else [*sample.temperatures, float(sample.settings.get("temperature", 1.0))]
    told = [stage.instructions.temperature for stage in round.train if stage.instructions is not None]
    return [*own, *(label.temperatures if label is not None else ()), *told]


def _as_trained(values: Mapping[str, Any]) -> dict[str, Any]:
    """What evaluation takes of the settings of all trainings, unless it says otherwise: the longest response."""
    training = values.get("training")
    return {k: training[k] for k in ("max_new_tokens",) if k in training} if isinstance(training, Mapping) else {}


NEEDED = "A plan of rounds is a YAML file with at least `policy`, `data`, `round` and `rounds`"


def _texts(value: Any) -> Iterator[str]:
    """All texts in plain values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def _merged(common: Any, given: Mapping[str, Any], name: str) -> Any:
    """A stage of a round: that of all rounds, with what this one says otherwise."""
    if name not in given:
        return dict(common) if isinstance(common, Mapping) else common
    own = given[name]
    if isinstance(common, Mapping) and isinstance(own, Mapping):
        return {**common, **own}
    return dict(own) if isinstance(own, Mapping) else own


def rounds_plan_from(given: Mapping[str, Any] | RoundsPlan, where: str = "plan") -> RoundsPlan:
    """A plan from plain values.

    Raises:
        PlanError: something in it cannot be; the message says where.
    """
    if isinstance(given, RoundsPlan):
        return given
    values = dict(given)
    if values.get("data") == TESTBED:
        values["data"] = {"train": TESTBED}
    if isinstance(values.get("evaluation"), Mapping):
        values["evaluation"] = {"curve_points": 0, **_as_trained(values), **values["evaluation"]}
    elif _as_trained(values):
        values["evaluation"] = {"curve_points": 0, **_as_trained(values)}
    values = with_sections(values, {"data": Data, "evaluation": Evaluation}, where)
    return built(RoundsPlan, values, where)


def read_rounds_plan(path: str | Path) -> RoundsPlan:
    """A plan from a YAML file; paths in it are taken from the current folder.

    Raises:
        PlanError: it cannot be read, is no YAML, or cannot be carried out.
    """
    return rounds_plan_from(read_values(path, NEEDED), str(path))

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

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from ..compare.plan import TESTBED, Data, Evaluation, PlanError, built
from ..objectives.sampling_arguments import SamplingArguments
from ..training.arguments import ModelConfig
from ..training.trainers import RewardConfig
from ..utils.extensions import is_named
from ..utils.names import hint
from ..utils.settings import NumberLoader, SettingsError, plain, read_yaml
from .training_stage import TrainingStage, training_stage

BASE, PREVIOUS = "base", "previous"
VERSION = re.compile(r"v(\d+)")
GOLD = "testbed"
PEOPLE = "people"
STAGES = ("prompts", "label", "reward", "sample", "select", "train", "evaluate")
"""The stages of a round, in their order."""
SAMPLING = {f.name for f in fields(SamplingArguments)}
SELECTIONS = ("all", "last")


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Which prompts a round takes: the next ones that no round had, until all had their turn.

    Args:
        label: how many get two responses each, to be labelled.
        sample: how many the policy is trained on; None takes all that there are.
        source: rows that bring this round's prompts, instead of the plan's `train`.
    """

    label: int = 0
    sample: int | None = None
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class Label:
    """Who says which of two responses is better, and who responds.

    Args:
        by: "people", who label what `prefopt label` exports; "testbed", the synthetic task's annotator; a judge as a
            comparison has it; or module:function, of (prompts, first, second), as a judge.
        files: labels that there are already; preference rows in any format, instead of responses to be labelled.
        policies: whose responses are held against each other: "previous" is the newest, "base" the first, "v2" ...
        temperatures: one for each of the policies, or one for all.
        sampling: how to sample, as `SamplingArguments`.
        held_out: the share of the labelled prompts that only measures reward models.
        at_least: the share of the pairs that people have to have labelled before the round goes on.
        lang: the language in which their page begins, "en" or "zh".
        include_truncated: compare also responses that the length limit cut off.
    """

    by: Any = PEOPLE
    files: tuple[str, ...] = ()
    policies: tuple[str, ...] = (PREVIOUS, PREVIOUS)
    temperatures: tuple[float, ...] = (1.0,)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    held_out: float = 0.1
    at_least: float = 1.0
    lang: str = "en"
    include_truncated: bool = False

    def __post_init__(self) -> None:
        if len(self.policies) != 2 or len(self.temperatures) not in (1, 2):
            raise PlanError(
                f"label: {len(self.policies)} policies and {len(self.temperatures)} temperatures: give two of each, or "
                "one temperature for both"
            )
        if not 0 <= self.held_out < 1:
            raise PlanError(f"label: held_out={self.held_out} must lie in [0, 1)")
        _check_sampling("label: sampling", self.sampling)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How often each label counts in the reward model's training, by where it is from; fractions take some of them.

    Args:
        new: labels of this round.
        old: those of the rounds before.
        open: the pairs of the plan's `train`.
    """

    new: float = 1.0
    old: float = 1.0
    open: float = 0.0

    def __post_init__(self) -> None:
        if min(self.new, self.old, self.open) < 0:
            raise PlanError(f"reward: mix: {self}: weights are 0 or more")


@dataclass(frozen=True)
class Reward:
    """The reward model of a round.

    Args:
        init: "base", the policy that rounds start from with a new head; "previous", the reward model of the round
            before; or a path.
        scorer: what scores instead, and none is trained: the path of a reward model, "v1" for that of an earlier round,
            module:function, of (prompts, responses), or the URL of a service.
        settings: of `RewardConfig`.
    """

    init: str = BASE
    scorer: str | None = None
    mix: Mix = Mix()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """How candidates are sampled from the newest policy.

    Args:
        temperatures: searched on held-out prompts; empty takes the `temperature` of `settings`.
        search_prompts: how many prompts the search takes.
        max_truncated: a temperature at which a larger share of the responses is cut off is not chosen.
        settings: of `SamplingArguments`.
    """

    temperatures: tuple[float, ...] = ()
    search_prompts: int = 64
    max_truncated: float = 0.5
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Select:
    """Which candidates are trained on.

    Args:
        of: "all", the candidates of all rounds, scored by the newest reward model; "last", this round's alone.
        prior_top_n: how many of each earlier round stay, the best ones; None keeps all.
        score_threshold: a prompt's best response scores at least so much.
        include_truncated: select also from responses that the length limit cut off.
    """

    of: str = "all"
    prior_top_n: int | None = None
    score_threshold: float | None = None
    include_truncated: bool = False

    def __post_init__(self) -> None:
        if self.of not in SELECTIONS:
            raise PlanError(f"select: of={self.of!r}: choose {' or '.join(SELECTIONS)}")


@dataclass(frozen=True)
class Round:
    """What one round does; None of a stage that it has not.

    Args:
        number: from 1.
        own: stage -> module:function, which does it in place of the built-in one.
    """

    number: int
    prompts: Prompts
    label: Label | None
    reward: Reward | None
    sample: Sample | None
    select: Select
    train: tuple[TrainingStage, ...]
    own: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RoundsPlan:
    """The whole of a run of rounds.

    Args:
        policy: where v0 comes from: a path or hub id; "testbed" is the synthetic task's own, which needs `sft`.
        data: as of a comparison; `train` brings the prompts, and with `open` of a mix the pairs.
        sft: settings of supervised fine-tuning, which makes v0; None takes the policy as it is.
        model: fields of `ModelConfig`, such as `dtype` or `use_peft`.
        training: settings for every training that has them.
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
    evaluation: Evaluation = Evaluation(curve_points=0)
    seed: int = 0
    stop_below: float | None = None

    def __post_init__(self) -> None:
        if TESTBED in (self.policy, self.data.train) and (self.policy != self.data.train or self.sft is None):
            raise PlanError(
                "testbed is both policy and data, and its policy knows nothing before `sft`: give all three"
            )
        if self.data.train != TESTBED and self.data.test is None:
            raise PlanError("data: `test` is missing: held-out rows, to whose prompts every version responds")
        if self.sft is not None and self.data.demonstrations is None and self.data.train != TESTBED:
            raise PlanError("sft: there are no demonstrations to learn from: give data a `demonstrations`")
        built(ModelConfig, self.model, "model")

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
        label = None if asked is None else built(Label, asked, f"{where}: label")
        reward = None if merged["reward"] is None else _reward(merged["reward"], f"{where}: reward", self.training)
        sample = None if merged["sample"] is None else _sample(merged["sample"], f"{where}: sample", self.training)
        select = built(Select, merged["select"] or {}, f"{where}: select")
        trainings = merged["train"] if isinstance(merged["train"], list) else [merged["train"]]
        train = tuple(
            training_stage(settings, self.training, f"{where}: train") for settings in trainings if settings is not None
        )
        made = Round(
            number,
            built(Prompts, merged["prompts"] or {}, f"{where}: prompts"),
            label,
            reward,
            sample,
            select,
            train,
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
        if round.sample is None and any(not stage.on_policy and not stage.on_labels for stage in round.train):
            raise PlanError(f"{where}: train: on what? give a `sample`, or `rows: labels` to train on the labels")
        if round.reward is not None and round.reward.scorer is not None:
            check_origin(round.reward.scorer, round.number, f"{where}: reward: scorer")
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


OWN = ("label", "reward", "select", "train")
"""Stages that module:function can take the place of."""
NEEDED = "A plan of rounds is a YAML file with at least `policy`, `data`, `round` and `rounds`"


def check_origin(name: str | None, round: int, where: str) -> None:
    """Refuse the name of a version that there is not yet.

    Raises:
        PlanError: it is none of "base", "previous", an earlier version, or a path.
    """
    if name is None or name in (BASE, PREVIOUS):
        return
    matched = VERSION.fullmatch(name)
    if matched and int(matched[1]) >= round:
        raise PlanError(f"{where}: {name} is not there yet in round {round}: name an earlier version")


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


def _reward(given: Any, where: str, training: Mapping[str, Any]) -> Reward:
    known = {f.name for f in fields(RewardConfig)}
    parts = _parts(given, where, ("init", "scorer", "mix"), known)
    settings = {k: v for k, v in training.items() if k in known} | parts.pop("settings")
    mix = built(Mix, parts.pop("mix", {}), f"{where}: mix")
    return Reward(**parts, mix=mix, settings=settings)


def _sample(given: Any, where: str, training: Mapping[str, Any]) -> Sample:
    parts = _parts(given, where, ("temperatures", "search_prompts", "max_truncated"), SAMPLING)
    settings = {k: v for k, v in training.items() if k in SAMPLING} | parts.pop("settings")
    _check_sampling(where, settings)
    return Sample(tuple(parts.pop("temperatures", ())), **parts, settings=settings)


def _parts(given: Any, where: str, own: Sequence[str], known: set[str]) -> dict[str, Any]:
    """What a stage has itself, and the settings that it passes on."""
    if not isinstance(given, Mapping):
        raise PlanError(f"{where}: given {given!r}; write its settings as `name: value`, or {{}}")
    for name in given:
        if name not in own and name not in known:
            raise PlanError(f"{where}: there is no setting {name!r}{hint(str(name), sorted({*own, *known}))}")
    kept = {name: given[name] for name in own if name in given}
    return {**kept, "settings": {name: value for name, value in given.items() if name not in own}}


def _check_sampling(where: str, settings: Mapping[str, Any]) -> None:
    try:
        built(SamplingArguments, settings, where).check_sampling()
    except ValueError as error:
        raise error if isinstance(error, PlanError) else PlanError(f"{where}: {error}") from error


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
    for name, kind in (("data", Data), ("evaluation", Evaluation)):
        if isinstance(values.get(name), Mapping):
            section = {"curve_points": 0, **values[name]} if kind is Evaluation else values[name]
            values[name] = built(kind, section, f"{where}: {name}")
    return built(RoundsPlan, values, where)


def read_rounds_plan(path: str | Path) -> RoundsPlan:
    """A plan from a YAML file; paths in it are taken from the current folder.

    Raises:
        PlanError: it cannot be read, is no YAML, or cannot be carried out.
    """
    try:
        given = read_yaml(Path(path).expanduser(), NumberLoader)
    except SettingsError as error:
        raise PlanError(f"{error}. {NEEDED}") from error
    if not given:
        raise PlanError(f"{path}: is empty. {NEEDED}")
    return rounds_plan_from({name: value for name, (value, _) in given.items()}, str(path))

"""The sections of a plan of rounds: what each stage of a round is told, as frozen dataclasses; see `plan.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ..compare.plan import PlanError, built
from ..objectives.sampling_arguments import SamplingArguments
from ..scoring.combine import THRESHOLD
from ..training.trainers import RewardConfig
from ..utils.names import hint
from .training_stage import TrainingStage

BASE, PREVIOUS = "base", "previous"
VERSION = re.compile(r"v(\d+)")
GOLD = "testbed"
PEOPLE = "people"
STAGES = ("prompts", "label", "reward", "sample", "select", "train", "evaluate")
"""The stages of a round, in their order."""
SAMPLING = {f.name for f in fields(SamplingArguments)}
SELECTIONS = ("all", "last")
OWN = ("label", "reward", "select", "train")
"""Stages that module:function can take the place of."""


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
        check_sampling("label: sampling", self.sampling)


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


@dataclass(frozen=True, kw_only=True)
class Safety:
    """A second reward model, of safety, as Llama 2 (arXiv:2307.09288, sections 3.2.2 and 3.2.3) has one.

    Args:
        prompts: rows whose prompts are safety prompts; or module:function, which says of a prompt whether it is one.
        threshold: where the safety model's probability is lower, its score counts; and at safety prompts.
        helpful: how often each pair of other prompts counts in the training of the safety model.
        safe: how often each pair of a safety prompt counts in the training of the other model.
    """

    prompts: str
    threshold: float = THRESHOLD
    helpful: float = 0.1
    safe: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1 or min(self.helpful, self.safe) < 0:
            raise PlanError(f"reward: safety: {self}: the threshold is a probability, and weights are 0 or more")


@dataclass(frozen=True)
class Reward:
    """The reward model of a round.

    Args:
        init: "base", the policy that rounds start from with a new head; "previous", the reward model of the round
            before; or a path.
        scorer: what scores instead, and none is trained: the path of a reward model, "v1" for that of an earlier round,
            module:function, of (prompts, responses), or the URL of a service.
        safety: with it there are two models, one of which learns from the pairs of safety prompts.
        settings: of `RewardConfig`.
    """

    init: str = BASE
    scorer: str | None = None
    mix: Mix = Mix()
    safety: Safety | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """How candidates are sampled from the newest policy.

    Args:
        temperatures: searched on held-out prompts, if there are several; without any, the `temperature` of `settings`.
        search_prompts: how many prompts the search takes.
        max_truncated: a temperature at which a larger share of the responses is cut off is not chosen, unless the
            selection takes such responses.
        settings: of `SamplingArguments`.
    """

    temperatures: tuple[float, ...] = ()
    search_prompts: int = 64
    max_truncated: float = 0.5
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.temperatures and self.search_prompts < 2:
            raise PlanError(
                f"sample: search_prompts={self.search_prompts}: temperatures are told apart by 2 prompts or more; to "
                "search none, give one `temperature`"
            )


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


def reward_section(given: Any, where: str, training: Mapping[str, Any]) -> Reward:
    known = {f.name for f in fields(RewardConfig)}
    parts = _parts(given, where, ("init", "scorer", "mix", "safety"), known)
    settings = {k: v for k, v in training.items() if k in known} | parts.pop("settings")
    mix = built(Mix, parts.pop("mix", {}), f"{where}: mix")
    safety = parts.pop("safety", None)
    if safety is not None:
        safety = built(Safety, safety, f"{where}: safety")
        if parts.get("scorer") is not None:
            raise PlanError(f"{where}: a `scorer` scores by itself: leave out `scorer` or `safety`")
    return Reward(**parts, mix=mix, safety=safety, settings=settings)


def sample_section(given: Any, where: str, training: Mapping[str, Any]) -> Sample:
    parts = _parts(given, where, ("temperatures", "search_prompts", "max_truncated"), SAMPLING)
    settings = {k: v for k, v in training.items() if k in SAMPLING} | parts.pop("settings")
    temperatures = tuple(parts.pop("temperatures", ()))
    if len(temperatures) == 1:  # there is nothing to search
        settings, temperatures = {**settings, "temperature": temperatures[0]}, ()
    check_sampling(where, settings)
    return Sample(temperatures, **parts, settings=settings)


def _parts(given: Any, where: str, own: Sequence[str], known: set[str]) -> dict[str, Any]:
    """What a stage has itself, and the settings that it passes on."""
    if not isinstance(given, Mapping):
        raise PlanError(f"{where}: given {given!r}; write its settings as `name: value`, or {{}}")
    for name in given:
        if name not in own and name not in known:
            raise PlanError(f"{where}: there is no setting {name!r}{hint(str(name), sorted({*own, *known}))}")
    kept = {name: given[name] for name in own if name in given}
    return {**kept, "settings": {name: value for name, value in given.items() if name not in own}}


def check_sampling(where: str, settings: Mapping[str, Any]) -> None:
    try:
        built(SamplingArguments, settings, where).check_sampling()
    except ValueError as error:
        raise error if isinstance(error, PlanError) else PlanError(f"{where}: {error}") from error

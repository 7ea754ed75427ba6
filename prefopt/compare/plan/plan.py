"""What is to be compared: a plan in plain values, from a YAML file or from Python. Checks it, runs nothing.

policy: HuggingFaceTB/SmolLM2-135M-Instruct
data: {train: hh/train.jsonl, test: hh/test.jsonl}
reward: {num_train_epochs: 1, learning_rate: 1e-5}
training: {max_length: 512, per_device_train_batch_size: 8}
methods:
  dpo: {learning_rate: 5e-7, beta: 0.1}
  simpo: {}
  long: {method: dpo, num_train_epochs: 3}
  best-of-n: {n: 16}
seeds: [0, 1, 2, 3, 4]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from ...training.arguments import ModelConfig
from ...utils.settings import NumberLoader, SettingsError, read_yaml
from .method_spec import BASELINE, Way, way_of
from .sections import PlanError as PlanError
from .sections import built

TESTBED = "testbed"


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which rows, as `load_preferences` takes them.

    Args:
        train: preference pairs to learn from, whose prompts methods that draw answer. "testbed": the built-in small
            world, with pairs of its own for each seed.
        test: pairs held out; their prompts are answered and judged.
        validation: the same for learning curves and for choosing settings; None sets prompts of `train` aside.
        demonstrations: good answers, for the SFT stage and for objectives that mix them in.
        choices: files of multiple-choice questions.
        train_rows: at most so many pairs, the first ones.
    """

    train: str
    test: str | None = None
    validation: str | None = None
    demonstrations: str | None = None
    adapter: str = "auto"
    choices: tuple[str, ...] = ()
    train_rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a trained policy is measured.

    Args:
        prompts: test prompts at most, the first different ones.
        pairs: held-out pairs at most; None is all.
        responses_per_prompt: drawn to each; their mean is a prompt's value.
        temperature: KL is only estimated at 1.
        curve_points: how often during training; 0 for never.
        curve_prompts: validation prompts that are answered each time.
        shots: multiple-choice questions of each file that are shown with their answers.
    """

    prompts: int = 256
    pairs: int | None = None
    responses_per_prompt: int = 4
    temperature: float = 1.0
    max_new_tokens: int = 128
    curve_points: int = 8
    curve_prompts: int = 64
    batch_size: int = 128
    shots: int = 0

    def __post_init__(self) -> None:
        for name in ("prompts", "responses_per_prompt", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise PlanError(f"evaluation: {name}={getattr(self, name)} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Settings to choose from, on validation prompts, with equally many trials for every method.

    Args:
        methods: name in the plan -> setting -> values. Of more combinations than trials, some are drawn.
        trials: for each method.
        seed: whose SFT policy and reward model they start from; None is the plan's first.
    """

    methods: Mapping[str, Any]
    trials: int
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What each method may spend.

    Args:
        flops: training stops at the first step that reaches it.
        reward_model: the training of the reward model is charged to each method that uses it.
    """

    flops: float
    reward_model: bool = True


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The whole of a comparison.

    Args:
        policy: where it starts: a path or hub id; "testbed" is the small world's own, which needs `sft`.
        sft: settings of supervised fine-tuning before all else; None starts from the policy as it is.
        reward: settings of the reward model's training, its path or hub id, or None for none.
        model: fields of `ModelConfig`, such as `dtype` or `use_peft`.
        training: settings for every method and stage that has them.
        methods: name -> settings; `method` among them where the name is none.
        seeds: each trains its own SFT policy and reward model, unless `one_stage`.
        one_stage: the first seed's SFT policy and reward model serve all.
        judges: by which methods are held against the baseline; see `evaluation.judges.judge_from`. None is the reward
            model, if there is one.
    """

    title: str = "Comparison"
    policy: str
    data: Data
    methods: Mapping[str, Any]
    sft: Mapping[str, Any] | None = None
    reward: Mapping[str, Any] | str | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    one_stage: bool = False
    evaluation: Evaluation = Evaluation()
    grid: Grid | None = None
    budget: Budget | None = None
    judges: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise PlanError(f"seeds: {list(self.seeds)}; give one or more, each once")
        for judge in self.judges or ():
            if not isinstance(judge, str | Mapping) or (judge == "gold" and self.data.train != TESTBED):
                what = "known in the small world alone" if judge == "gold" else "no text and no mapping"
                raise PlanError(f"judges: {judge!r} is {what}: give `score`, module:function, a path or a mapping")
        if self.data.train != TESTBED and self.data.test is None:
            raise PlanError("data: `test` is missing: held-out pairs, whose prompts are answered and judged")
        if TESTBED in (self.policy, self.data.train) and (self.policy != self.data.train or self.sft is None):
            raise PlanError(
                "testbed is both policy and data, and its policy knows nothing before `sft`: give all three"
            )
        if self.sft is not None and self.data.demonstrations is None and self.data.train != TESTBED:
            raise PlanError("sft: there are no demonstrations to learn from: give data a `demonstrations`")
        built(ModelConfig, self.model, "model")

    @property
    def judged_by(self) -> tuple[Any, ...]:
        """The judges; a score is there only with a reward model."""
        given = ("score",) if self.judges is None else self.judges
        return tuple(each for each in given if each != "score" or self.reward is not None)

    @property
    def ways(self) -> dict[str, Way]:
        """How each method is carried out, the baseline first.

        Raises:
            PlanError: a method or a setting that there is not.
        """
        found = {BASELINE: way_of(BASELINE, {}, {})}
        for name, settings in self.methods.items():
            found[str(name)] = way_of(str(name), settings or {}, self.training)
        return found

    def without_unknown(self) -> tuple[Plan, dict[str, str]]:
        """The plan with the methods that there are, and why each of the others is none."""
        wrong = {}
        for name, settings in self.methods.items():
            try:
                way_of(str(name), settings or {}, self.training)
            except PlanError as error:
                wrong[str(name)] = str(error)
        return replace(self, methods={n: s for n, s in self.methods.items() if n not in wrong}), wrong

    def plain(self) -> dict[str, Any]:
        """As a YAML file holds it: without what is as it is by default."""
        return _plain(self)


NEEDED = "A plan is a YAML file with at least `policy`, `data` and `methods`"
SECTIONS = {"data": Data, "evaluation": Evaluation, "grid": Grid, "budget": Budget}


def plan_from(given: Mapping[str, Any] | Plan, where: str = "plan") -> Plan:
    """A plan from plain values.

    Raises:
        PlanError: something in it cannot be; the message says where.
    """
    if isinstance(given, Plan):
        return given
    values = dict(given)
    if values.get("data") == TESTBED:
        values["data"] = {"train": TESTBED}
    if isinstance(values.get("methods"), list | tuple):
        values["methods"] = {name: {} for name in values["methods"]}
    for name, kind in SECTIONS.items():
        if isinstance(values.get(name), Mapping):
            values[name] = built(kind, values[name], f"{where}: {name}")
    return built(Plan, values, where)


def read_plan(path: str | Path) -> Plan:
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
    return plan_from({name: value for name, (value, _) in given.items()}, str(path))


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        defaults = {each.name: _default(each) for each in fields(value)}
        given = {name: getattr(value, name) for name in defaults}
        return {name: _plain(each) for name, each in given.items() if each != defaults[name]}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()

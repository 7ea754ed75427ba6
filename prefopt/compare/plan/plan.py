"""Reads a plan, which says what is to be compared, from a YAML file or from plain values, and checks it.

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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...objectives.base import module_of
from ...training.arguments import ModelConfig
from ...utils.extensions import is_named
from ...utils.settings import plain
from ...utils.visible import shown
from .method_spec import BASELINE, MethodSpec, make_method_spec
from .sections import PlanError as PlanError
from .sections import built, check_launch, engine_in, read_values, with_sections

TESTBED = "testbed"


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which rows, as `load_preferences` takes them.

    Args:
        train: preference pairs to learn from; methods that generate responses do so to their prompts. "testbed": the
            built-in synthetic task, with other pairs for each seed. None where nothing is trained.
        test: held-out pairs; the methods are evaluated on responses to their prompts.
        validation: pairs for learning curves and for choosing hyperparameters; None sets prompts of `train` aside.
        demonstrations: good answers, for the SFT stage and for objectives that mix them in.
        adapter: the format of the rows; "auto" recognises it.
        columns: what a column is called here -> what it is called in the rows, as of `load_preferences`.
        text_prompts: what a prompt in plain text is: "verbatim", or "user" for a user's turn.
        choices: files of multiple-choice questions.
        train_rows: how many pairs are used at most, the first ones.
    """

    train: str | None = None
    test: str | None = None
    validation: str | None = None
    demonstrations: str | None = None
    adapter: str = "auto"
    columns: Mapping[str, str] | None = None
    text_prompts: str = "verbatim"
    choices: tuple[str, ...] = ()
    train_rows: int | None = None

    def __post_init__(self) -> None:
        if self.text_prompts not in ("verbatim", "user"):
            raise PlanError(
                f"data: text_prompts is {self.text_prompts!r}; give `user` (the user's turn, as in training where the "
                "model has a chat template) or `verbatim`: rows are read before any model is loaded"
            )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a trained policy is measured.

    Args:
        prompts: how many test prompts are used at most, the first distinct ones.
        pairs: how many held-out pairs are used at most; None uses all.
        responses_per_prompt: how many responses to each prompt are generated; the value of a prompt is their mean.
        temperature: of sampling; KL is estimated at 1 only.
        max_new_tokens: the length limit of a response, in tokens.
        curve_points: how often a policy is evaluated during its training; 0 for never.
        curve_prompts: to how many validation prompts responses are generated each time.
        batch_size: how many responses are generated at once.
        shots: how many multiple-choice questions of each file are shown with their answers.
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
    """Hyperparameters to choose from, on validation prompts, with equally many trials for every method.

    Args:
        methods: name in the plan -> hyperparameter -> values. Of more combinations than trials, some are sampled.
        trials: for each method.
        seed: whose SFT policy and reward model they start from; None is the plan's first.
    """

    methods: Mapping[str, Any]
    trials: int
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much compute each method may use.

    Args:
        flops: training stops at the first step that reaches this number of floating-point operations.
        reward_model: the training of the reward model is charged to each method that uses it.
    """

    flops: float
    reward_model: bool = True


def check_start(policy: str, data: Data, sft: Mapping[str, Any] | None) -> None:
    """Refuse a start that cannot be made, or that nothing could be held against.

    Raises:
        PlanError: rows are missing, or half of the testbed is.
    """
    if policy == TESTBED and (policy != data.train or sft is None):
        raise PlanError(
            "policy: testbed is the small world's own, which knows nothing before `sft`, and is trained on the world's "
            "rows: give `data: testbed` and a `sft` with it; with your own data, name a model"
        )
    if data.train != TESTBED and data.test is None:
        raise PlanError("data: `test` is missing: held-out pairs, to whose prompts every policy responds")
    if sft is not None and data.demonstrations is None and data.train != TESTBED:
        raise PlanError("sft: there are no demonstrations to learn from: give data a `demonstrations`")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The whole of a comparison.

    Args:
        policy: where training starts: a path or hub id; "testbed" is the synthetic task's own, which needs `sft`.
        baseline: what the report calls the policy that all methods start from.
        sft: settings of supervised fine-tuning before all else; None starts from the policy as it is.
        reward: settings of the reward model's training, its path or hub id, or None for none. A service may
            take its place: its URL, or a mapping with `url` and other fields of `scoring.HTTPScorer`.
        model: fields of `ModelConfig`, such as `dtype` or `use_peft`.
        training: settings for every method and stage that has them; `use_vllm` and its like are for evaluation too.
        launch: the command of a launcher, as `torchrun --nproc_per_node 2`, by whose processes trainings are done
            together: one for all, or "sft", "reward" or the name of a method -> command.
        methods: name -> settings; `method` among them where the name is none. `checkpoint` is a policy that was
            trained elsewhere, `{method: checkpoint, policy: PATH}`.
        seeds: each trains its own SFT policy and reward model, unless `one_stage`.
        one_stage: the first seed's SFT policy and reward model serve all.
        judges: what compares the methods with the baseline; see `measure.judges.judge_from`. None is the reward model,
            if there is one.
    """

    title: str = "Comparison"
    policy: str
    data: Data
    methods: Mapping[str, Any]
    sft: Mapping[str, Any] | None = None
    reward: Mapping[str, Any] | str | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    launch: Mapping[str, str] | str | None = None
    seeds: tuple[int, ...] = (0,)
    one_stage: bool = False
    evaluation: Evaluation = Evaluation()
    grid: Grid | None = None
    budget: Budget | None = None
    judges: tuple[Any, ...] | None = None
    baseline: str = BASELINE

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise PlanError(f"seeds: {list(self.seeds)}; give one or more, each once")
        for judge in self.judges or ():
            if not isinstance(judge, str | Mapping) or (judge == "gold" and self.data.train != TESTBED):
                what = "known in the synthetic task alone" if judge == "gold" else "no text and no mapping"
                raise PlanError(f"judges: {shown(judge)} is {what}: give `score`, module:function, a path or a mapping")
        check_start(self.policy, self.data, self.sft)
        built(ModelConfig, self.model, "model")
        engine_in(self.training, (self.evaluation.temperature,))
        if self.launch is not None:
            stages = [name for name in ("sft", "reward") if isinstance(getattr(self, name), Mapping)]
            check_launch(self.launch, (*stages, *map(str, self.methods)))
            if self.budget is not None:
                raise PlanError("launch: a budget is counted by one process: leave out `launch` or `budget`")

    @property
    def active_judges(self) -> tuple[Any, ...]:
        """The judges that can compare: "score" only where there is a reward model."""
        judges = ("score",) if self.judges is None else self.judges
        return tuple(judge for judge in judges if judge != "score" or self.reward is not None)

    @property
    def method_specs(self) -> dict[str, MethodSpec]:
        """How each method is trained, by its name, the baseline first.

        Raises:
            PlanError: there is no such method, or it has no such setting.
        """
        specs = {self.baseline: replace(make_method_spec(BASELINE, {}, {}), name=self.baseline)}
        for name, settings in self.methods.items():
            if name == self.baseline != BASELINE:
                raise PlanError(f"methods: {name}: this is what `baseline` calls the policy that all start from")
            specs[str(name)] = make_method_spec(str(name), settings or {}, self.training)
        return specs

    @property
    def imports(self) -> list[tuple[str, str]]:
        """The modules that the plan has imported: where it names each, and its dotted path."""
        methods = {name: str((settings or {}).get("method", name)) for name, settings in self.methods.items()}
        judges = [judge.get("judge") if isinstance(judge, Mapping) else judge for judge in self.judges or ()]
        found = [(f"methods: {name}", module_of(method)) for name, method in methods.items()]
        named = [("judges", judge) for judge in judges] + [("data: adapter", self.data.adapter)]
        found += [(where, name.partition(":")[0]) for where, name in named if isinstance(name, str) and is_named(name)]
        return [(where, module) for where, module in found if module is not None]

    def without_unknown(self) -> tuple[Plan, dict[str, str]]:
        """The plan without its unknown methods, and what is wrong with each of these, by name."""
        wrong = {}
        for name, settings in self.methods.items():
            try:
                make_method_spec(str(name), settings or {}, self.training)
            except PlanError as error:
                wrong[str(name)] = str(error)
        return replace(self, methods={n: s for n, s in self.methods.items() if n not in wrong}), wrong

    def plain(self) -> dict[str, Any]:
        """The plan as a YAML file holds it, without what has its default value."""
        return plain(self)


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
    return built(Plan, with_sections(values, SECTIONS, where), where)


def read_plan(path: str | Path) -> Plan:
    """A plan from a YAML file; paths in it are taken from the current folder.

    Raises:
        PlanError: it cannot be read, is no YAML, or cannot be carried out.
    """
    return plan_from(read_values(path, NEEDED), str(path))

"""Divides a plan of rounds into tasks, and says what each depends on: see `tasks.Task`.

    v0      rows ─ start (SFT)
    vN      prompts ─ candidates ─ label ─┐
                                          reward ─ search ─ generate ─ score ─ select ─ train ... ─ evaluate
            labels of earlier rounds ─────┘                   └ candidates of earlier rounds

Every task knows its round, and its random numbers are its own: its seed is made of the plan's, the round and the stage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, wraps
from typing import Any, TypeVar

from ..compare.plan import TESTBED, PlanError
from ..compare.run import ENCODING, READING, contents_of, engine_inputs, launched_by
from ..scoring.http import is_service
from ..tasks import Task
from ..training.trainers import SFTConfig
from ..utils.extensions import is_named, load_named
from ..utils.fingerprint import fingerprint_of_code
from .plan import RoundsPlan
from .sections import BASE, GOLD, PEOPLE, PREVIOUS, VERSION, Reward, Round
from .training_stage import TrainingStage

T = TypeVar("T")
FORMATS = dict.fromkeys(
    (
        *("rows", "held_out", "start", "prompts", "candidates", "ask", "label", "reward", "rank", "search"),
        *("generate", "score", "select", "gatt", "train", "evaluate", "rescore", "judge", "safety", "combine"),
    ),
    2,
)
"""Kind of task -> the number of what its code makes of the same inputs, see `Task.formats`."""
PARTS = ("helpfulness", "safety")
"""Two reward models, the second of safety, of which a third stage makes one scorer."""
DATA = ("train", "test", "validation", "demonstrations")


@dataclass(frozen=True)
class RoundTask(Task):
    """One stage of a round.

    Args:
        round: 0 for what comes before the first.
    """

    formats = FORMATS
    functions = f"{__package__}.stages.run_stage"
    trainings = frozenset({"start", "reward", "train"})
    resumable = frozenset({"ask", "label", "candidates", "search", "generate", "score", "gatt"})
    edited = frozenset({"ask"})

    round: int = 0

    @property
    def place(self) -> str:
        return f"rlhf-v{self.round}"

    @cached_property
    def key(self) -> str:
        parts = [self.kind, *([self.name] if self.name else []), self.digest[:10]]
        return f"{self.place}/{'-'.join(parts)}"

    @property
    def label(self) -> str:
        return f"v{self.round} {self.kind}{f' {self.name}' if self.name else ''}"


def stream_seed(seed: int, *names: Any) -> int:
    """A seed for one stage of one round: no two have the same, whatever the plan's seed."""
    digest = hashlib.blake2b(repr((seed, *names)).encode(), digest_size=4).digest()
    return int.from_bytes(digest) % 2**31


def once(method: Callable[..., T]) -> Callable[..., T]:
    """A method that makes the same of the same arguments, and does so once: tasks need one another many times over."""

    @wraps(method)
    def made(self: Any, *args: Any) -> T:
        key = (method.__name__, *args)
        if key not in self.made:
            self.made[key] = method(self, *args)
        return self.made[key]  # type: ignore[no-any-return]

    return made


class RoundTasks:
    """Makes the tasks of a plan, each once."""

    def __init__(self, plan: RoundsPlan):
        self.plan, self.rounds = plan, plan.each
        self.made: dict[Any, Any] = {}
        self.policy = contents_of(plan.policy)
        data = {name: value for name, value in asdict(plan.data).items() if name != "choices"}
        self.data = {name: contents_of(value) if name in DATA and value else value for name, value in data.items()}
        if plan.data.train != TESTBED:
            self.data["reading"] = READING
        self.choices = [contents_of(path) for path in plan.data.choices]

    def _task(
        self, kind: str, number: int, inputs: Mapping[str, Any], needs: Mapping[str, Task], name: str = ""
    ) -> Task:
        """A task with random numbers of its own."""
        random = {"stream": stream_seed(self.plan.seed, number, kind, name)}
        return RoundTask(kind, name, self.plan.seed, {**inputs, **random}, needs, number)

    # ---- before the first round ------------------------------------------------------------------------------------

    @cached_property
    def rows(self) -> Task:
        data = {name: value for name, value in self.data.items() if name != "test"}
        return self._task("rows", 0, {"data": data, **self._sizes("curve_prompts")}, {})

    @cached_property
    def held_out(self) -> Task:
        return self._task("held_out", 0, {"data": self.data, **self._sizes("prompts", "pairs")}, {"rows": self.rows})

    @cached_property
    def start(self) -> Task:
        """Makes v0: trains it, or takes the policy as it is."""
        if self.plan.sft is None:
            return self._task("start", 0, {**self._models, "settings": None}, {})
        known = {name for name in SFTConfig.__dataclass_fields__}
        shared = {name: value for name, value in self.plan.training.items() if name in known}
        inputs = {**self._models, "settings": {**shared, **self.plan.sft}, **launched_by(self.plan.launch, "sft")}
        return self._task("start", 0, inputs, {"rows": self.rows})

    # ---- a round ---------------------------------------------------------------------------------------------------

    @once
    def prompts(self, number: int) -> Task:
        """Chooses the prompts of a round, none of which an earlier one had as long as there are others."""
        round = self._round(number)
        wanted = asdict(round.prompts)
        source = contents_of(round.prompts.source) if round.prompts.source else None
        before = [asdict(each.prompts) for each in self.rounds[: number - 1] if each.prompts.source is None]
        return self._task("prompts", number, {**wanted, "source": source, "before": before}, {"rows": self.rows})

    @once
    def candidates(self, number: int) -> Task:
        """Samples the two responses of each pair that is to be labelled."""
        label = self._label(number)
        needs = {"prompts": self.prompts(number), "start": self.start}
        needs |= {f"policy {i}": self.version(name, number) for i, name in enumerate(label.policies)}
        sampling = {k: v for k, v in self.plan.training.items() if k in SAMPLED} | dict(label.sampling)
        inputs = {**self._sampling, "temperatures": list(label.temperatures), "sampling": sampling}
        return self._task("candidates", number, inputs, needs)

    @once
    def label(self, number: int) -> Task:
        """Has the pairs of a round labelled, or reads labels that there are."""
        label = self._label(number)
        inputs: dict[str, Any] = {"held_out": label.held_out, **self._own(number, "label")}
        inputs["include_truncated"] = label.include_truncated
        if label.files:
            files = {"files": [contents_of(path) for path in label.files]}
            return self._task("label", number, {**inputs, **files, "by": None}, {"rows": self.rows})
        inputs |= {"by": label.by, "source": judge_source(label.by)}
        needs = {"candidates": self.candidates(number), "rows": self.rows}
        if label.by == PEOPLE:
            needs["ask"] = self.ask(number)
            inputs["at_least"] = label.at_least
        return self._task("label", number, inputs, needs)

    @once
    def ask(self, number: int) -> Task:
        """Writes what people are to label."""
        label = self._label(number)
        inputs = {"count": self._round(number).prompts.label, "lang": label.lang}  # the count is part of the name alone
        inputs["include_truncated"] = label.include_truncated
        return self._task("ask", number, inputs, {"candidates": self.candidates(number)})

    def labels(self, number: int) -> dict[str, Task]:
        """The labels of all rounds so far, by the number of theirs."""
        return {f"labels {n}": self.label(n) for n in range(1, number + 1) if self._round(n).label is not None}

    @once
    def reward(self, number: int) -> Task | None:
        """Trains the round's reward model on the labels of all rounds so far; None of a round without one."""
        reward = self._round(number).reward
        if reward is None:
            return None
        if reward.scorer is not None:
            if matched := VERSION.fullmatch(reward.scorer):
                return self.reward(int(matched[1]))
            named = is_named(reward.scorer)
            ready = named or is_service(reward.scorer)
            source = (
                [reward.scorer, judge_source(reward.scorer) if named else None] if ready else contents_of(reward.scorer)
            )
            return RoundTask("reward", "", self.plan.seed, {**self._models, "scorer": source}, {}, 0)
        if reward.safety is None:
            return self._reward_model(number, reward, "")
        needs = {part: self._reward_model(number, reward, part) for part in PARTS}
        needs["safety prompts"] = self.safety(reward.safety.prompts)
        return RoundTask("combine", "", self.plan.seed, {"threshold": reward.safety.threshold}, needs, number)

    @once
    def safety(self, prompts: str) -> Task:
        """Knows which prompts are safety prompts."""
        named = is_named(prompts)
        source = [prompts, judge_source(prompts)] if named else contents_of(prompts)
        return RoundTask("safety", "", None, {"prompts": source}, {})

    def _reward_model(self, number: int, reward: Reward, part: str) -> Task:
        """One that is trained; `part` is "" of one alone, and else which of two it is."""
        needs: dict[str, Task] = {"rows": self.rows, "start": self.start, **self.labels(number)}
        inputs = {
            **self._models,
            **self._own(number, "reward"),
            "mix": asdict(reward.mix),
            "settings": dict(reward.settings),
        }
        inputs |= {"init": reward.init if reward.init in (BASE, PREVIOUS) else contents_of(reward.init), "scorer": None}
        inputs |= launched_by(self.plan.launch, "reward")
        if part and reward.safety is not None:
            needs["safety prompts"] = self.safety(reward.safety.prompts)
            inputs |= {"part": part, "other part": reward.safety.safe if part == PARTS[0] else reward.safety.helpful}
        before = self.reward(number - 1) if reward.init == PREVIOUS and number > 1 else None
        if before is not None:
            needs["previous"] = before.needs[part or PARTS[0]] if before.kind == "combine" else before
        return self._task("reward", number, inputs, needs, part)

    @once
    def rank(self, number: int) -> Task | None:
        """Ranks held-out pairs, and the held-out labels of every round, by the round's reward model."""
        if (reward := self.reward(number)) is None:
            return None
        needs = {"reward": reward, "test": self.held_out, **self.labels(len(self.rounds))}
        return self._task("rank", number, {}, needs)

    @once
    def search(self, number: int) -> Task | None:
        """Searches the temperature whose best of K scores highest, on validation prompts."""
        sample = self._round(number).sample
        if sample is None or not sample.temperatures:
            return None
        inputs = {**self._sampling, "temperatures": list(sample.temperatures), "sampling": dict(sample.settings)}
        inputs |= {"prompts": sample.search_prompts, "max_truncated": sample.max_truncated}
        if self._round(number).select.include_truncated:
            inputs["include_truncated"] = True
        needs = {"rows": self.rows, "policy": self.version(PREVIOUS, number), "reward": self._scorer(number)}
        return self._task("search", number, inputs, needs)

    @once
    def pool(self, number: int) -> Task | None:
        """Samples K responses to each prompt of a round from the newest policy."""
        sample = self._round(number).sample
        if sample is None:
            return None
        needs = {"prompts": self.prompts(number), "policy": self.version(PREVIOUS, number)}
        if (search := self.search(number)) is not None:
            needs["search"] = search
        return self._task("generate", number, {**self._sampling, "sampling": dict(sample.settings)}, needs)

    @once
    def score(self, number: int) -> Task:
        """Scores the candidates of all rounds so far by the round's reward model."""
        pools = {f"pool {n}": task for n in range(1, number + 1) if (task := self.pool(n)) is not None}
        if self._round(number).select.of == "last":
            pools = {name: task for name, task in pools.items() if name == f"pool {number}"}
        return self._task("score", number, {}, {"reward": self._scorer(number), **pools})

    @once
    def select(self, number: int, responses: int | None) -> Task:
        """Selects the rows to train on: the best (1), best and worst (2), or a ranking (None)."""
        inputs = {**asdict(self._round(number).select), "responses": responses, **self._own(number, "select")}
        name = {1: "best", 2: "pairs", None: "ranked"}.get(responses, str(responses))
        return self._task("select", number, inputs, {"score": self.score(number)}, name)

    @once
    def trainings(self, number: int) -> list[Task]:
        """The trainings of a round, in their order."""
        tasks: list[Task] = []
        for place, stage in enumerate(self._round(number).train):
            before = tasks[-1] if tasks else None
            tasks.append(self._training(number, place, stage, before))
        return tasks

    def _training(self, number: int, place: int, stage: TrainingStage, before: Task | None) -> Task:
        behind = before is not None and stage.init == PREVIOUS
        init = before if behind and before is not None else self.version(stage.init, number)
        needs: dict[str, Task] = {"policy": init, "start": self.start, "rows": self.rows}
        if stage.reference is not None:
            needs["ref_model"] = self.version(stage.reference, number)
        if stage.instructions is not None:
            needs["selected"] = self.gatt(number, place, stage, init)
        elif stage.on_policy:
            needs |= {"prompts": self.prompts(number), "reward": self._scorer(number)}
        elif stage.on_labels:
            needs |= self.labels(number)
        else:
            needs["selected"] = self.select(number, stage.responses)
        inputs = {**self._models, "place": place}
        inputs |= {"source": stage.spec.source_fingerprint if stage.spec else "", **self._own(number, "train")}
        inputs |= {"given": dict(stage.given), "training": dict(self.plan.training)}
        inputs |= launched_by(self.plan.launch, "train")
        return self._task(
            "train", number, inputs, needs, f"{place + 1}-{stage.method.partition(':')[2] or stage.method}"
        )

    def gatt(self, number: int, place: int, stage: TrainingStage, init: Task) -> Task:
        """Samples the rows of Ghost Attention from the policy that it begins with."""
        assert stage.instructions is not None
        given = asdict(stage.instructions)
        sampling = {name: given.pop(name) for name in ("temperature", "max_new_tokens")}
        inputs = {**self._sampling, "instructions": given, "sampling": sampling}
        needs = {"prompts": self.prompts(number), "start": self.start, "policy": init}
        return self._task("gatt", number, inputs, needs, str(place + 1))

    @once
    def version(self, name: str, number: int) -> Task:
        """The task that ends with a version of the policy, as round `number` calls it.

        Raises:
            PlanError: it is the path of a policy that is not there.
        """
        if name == BASE:
            return self.start
        if name == PREVIOUS:
            return self.policy_of(number - 1)
        if matched := VERSION.fullmatch(name):
            return self.policy_of(int(matched[1]))
        return self._task("start", 0, {**self._models, "policy": contents_of(name), "settings": None}, {})

    def policy_of(self, version: int) -> Task:
        """The task that ends with v0, v1, ...; a round that trains nothing ends with the version before."""
        if version < 1:
            return self.start
        trainings = self.trainings(version)
        return trainings[-1] if trainings else self.policy_of(version - 1)

    # ---- how good it is --------------------------------------------------------------------------------------------

    @once
    def evaluate(self, version: int) -> Task:
        """Measures a version by its responses to held-out prompts."""
        needs = {"test": self.held_out, "start": self.start, "policy": self.policy_of(version)}
        needs["previous"] = self.policy_of(version - 1)
        names = ("responses_per_prompt", "temperature", "max_new_tokens", "batch_size", "shots")
        inputs = {**self._sampling, **self._sizes(*names), "choices": self.choices}
        # The same random numbers for all versions: what differs is the policy.
        return RoundTask("evaluate", "", self.plan.seed, {**inputs, "version": version}, needs, version)

    @once
    def rescore(self, version: int, number: int) -> Task | None:
        """Scores a version's held-out responses by the reward model of a round."""
        if (reward := self.reward(number)) is None:
            return None
        needs = {"test": self.held_out, "evaluated": self.evaluate(version), "reward": reward}
        return RoundTask("rescore", f"by-v{number}", self.plan.seed, {}, needs, version)

    def report_tasks(self) -> list[Task]:
        """All that the report of a whole run needs, version by version."""
        tasks: list[Task | None] = [self.evaluate(0)]
        numbers = [round.number for round in self.rounds]
        for number in numbers:
            tasks += [*self.trainings(number), self.evaluate(number), self.rank(number)]
        tasks += [self.rescore(version, number) for number in numbers for version in (0, *numbers)]
        return [task for task in tasks if task is not None]

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _round(self, number: int) -> Round:
        return self.rounds[number - 1]

    def _label(self, number: int) -> Any:
        label = self._round(number).label
        assert label is not None
        return label

    def _scorer(self, number: int) -> Task:
        reward = self.reward(number)
        if reward is None:
            raise PlanError(f"rounds: {number}: responses are scored, and there is no reward model: give a `reward`")
        return reward

    def _own(self, number: int, stage: str) -> dict[str, Any]:
        """What stands in the place of a built-in stage, with the text of its code."""
        named = self._round(number).own.get(stage)
        if named is None:
            return {}
        return {"stage": named, "code": fingerprint_of_code(load_named(named, f"rounds: {number}: {stage}:"))}

    @property
    def _models(self) -> dict[str, Any]:
        return {"policy": self.policy, "model": dict(self.plan.model)}

    @property
    def _encoding(self) -> dict[str, Any]:
        kept = {name: self.plan.training[name] for name in ENCODING if name in self.plan.training}
        return {**self._models, "settings": kept}

    @property
    def _sampling(self) -> dict[str, Any]:
        """What a stage needs to know that samples, beside how."""
        return {**self._encoding, **engine_inputs(self.plan.training)}

    def _sizes(self, *names: str) -> dict[str, Any]:
        return {"evaluation": {name: getattr(self.plan.evaluation, name) for name in names}}


SAMPLED = ("max_new_tokens", "sampling_batch_size")


def judge_source(by: Any) -> Any:
    """What changes when whoever labels does, beyond the name: a function's code, a model's files."""
    if by in (GOLD, PEOPLE) or not isinstance(by, str):
        return None
    if ":" in by:
        return fingerprint_of_code(load_named(by, "label:"))
    return contents_of(by)

"""What rounds came to: every version by every measure, where each comes from, and what was forgotten on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..candidates.candidate import prompt_key
from ..compare import records
from ..compare.plan import HeldOutData
from ..compare.statistics import wins_by_reward
from ..data.records import Messages
from ..tasks import Task
from .tasks import RoundTasks

LEVEL = 0.95
FORGOTTEN = 20
"""How many forgotten prompts a report shows, the worst first."""


@dataclass(frozen=True)
class Figure:
    """A mean over prompts with its interval; without bounds where there is one prompt, or nothing varies."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Forgotten:
    """A prompt that an earlier version answered better than the newest, by the primary measure."""

    prompt: Messages
    then: str
    version: int
    reward_then: float
    now: str
    reward_now: float


@dataclass(frozen=True)
class Version:
    """One version of the policy.

    Args:
        number: 0 is the one that rounds start from.
        folder: of the policy, below that of the run.
        gold: where it is known.
        scores: number of a round -> score by its reward model.
        kl_first, kl_previous: KL(version || v0) and (version || the one before), k1, nats a response.
        wins: "v0", "previous", "best" -> win rate against it, ties a half, by the primary measure.
        sampled: what its round sampled: temperature, the expected best and median of N, as `candidates.report`.
        temperature: the best one and those that may be as good, of a search.
        reward_model: accuracy of the round's reward model: "test", "labels 1", ... -> pairs, accuracy, error.
        choices: multiple-choice accuracy by file.
        trained: trainings of its round: method, rows, from where, first loss.
        seconds: that its round took.
    """

    number: int
    folder: str
    length: Figure
    unfinished: float
    gold: Figure | None = None
    scores: Mapping[int, Figure] = field(default_factory=dict)
    kl_first: Figure | None = None
    kl_previous: Figure | None = None
    wins: Mapping[str, Figure] = field(default_factory=dict)
    sampled: Mapping[str, Any] | None = None
    temperature: Mapping[str, Any] | None = None
    reward_model: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, float] = field(default_factory=dict)
    trained: Sequence[Mapping[str, Any]] = ()
    labels: Mapping[str, Any] | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class RoundsResults:
    """All that a report over rounds says.

    Args:
        primary: "gold" where it is known, else "score", by the newest reward model.
        best: the number of the best version by it.
    """

    title: str
    primary: str
    prompts: int
    seed: int
    versions: Sequence[Version]
    best: int
    forgotten: Sequence[Forgotten]
    pending: Sequence[str] = ()

    def plain(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return asdict(self)


def figure(values: Any) -> Figure:
    """The mean of one value for each prompt, and Student's interval."""
    values = np.asarray(values, dtype=np.float64)
    mean = float(values.mean())
    if len(values) < 2 or np.ptp(values) == 0:
        return Figure(mean, mean, mean)
    half = float(stats.sem(values) * stats.t.isf((1 - LEVEL) / 2, len(values) - 1))
    return Figure(mean, mean - half, mean + half)


class Collected:
    """Reads what is done of a run."""

    def __init__(self, tasks: RoundTasks, out: Path):
        self.tasks, self.out = tasks, out
        self.numbers = [n for n in range(len(tasks.rounds) + 1) if self.responses(n) is not None]
        trained = [n for n in range(1, len(tasks.rounds) + 1) if self._has_scores(n)]
        self.newest_reward = trained[-1] if trained else None

    def responses(self, version: int) -> pd.DataFrame | None:
        """A version's held-out responses, scored by no reward model."""
        task = self.tasks.evaluate(version)
        return records.read(task.folder(self.out) / "responses.parquet") if self._done(task) else None

    def scored(self, version: int, number: int | None) -> pd.DataFrame | None:
        """The same, with their scores by the reward model of a round."""
        task = None if number is None else self.tasks.rescore(version, number)
        return records.read(task.folder(self.out) / "responses.parquet") if task and self._done(task) else None

    def primary(self) -> str:
        first = self.responses(self.numbers[0]) if self.numbers else None
        return "gold" if first is not None and not first["gold"].isna().any() else "score"

    def rewards(self, version: int) -> pd.Series | None:
        """The primary measure: prompt's key -> mean over its responses."""
        frame = self.responses(version) if self.primary() == "gold" else self.scored(version, self.newest_reward)
        return None if frame is None else frame.groupby("prompt_key", sort=False)[self.primary()].mean()

    def wins(self, version: int, other: int) -> Figure | None:
        ours, theirs = self.rewards(version), self.rewards(other)
        if ours is None or theirs is None:
            return None
        wins = wins_by_reward(ours.to_numpy(), theirs[ours.index].to_numpy(), tolerance=1e-9)
        low, high = wins.interval(LEVEL)
        return Figure(wins.rate, float(low), float(high))

    def _done(self, task: Task) -> bool:
        return task.result(self.out) is not None

    def _has_scores(self, number: int) -> bool:
        return all(self.scored(version, number) is not None for version in self.numbers)

    def version(self, number: int, best: int) -> Version:
        found = self.responses(number)
        assert found is not None
        by_prompt = found.groupby("prompt_key", sort=False)
        result = self.tasks.evaluate(number).result(self.out) or {}
        rivals = {"v0": 0, "previous": number - 1, "best": best}
        wins = {name: self.wins(number, other) for name, other in rivals.items() if number and other != number}
        scores = {n: self.scored(number, n) for n in range(1, len(self.tasks.rounds) + 1)}
        return Version(
            number=number,
            folder=f"rlhf-v{number}/policy",
            length=figure(by_prompt["length"].mean()),
            unfinished=float((~found["finished"]).mean()),
            gold=None if found["gold"].isna().any() else figure(by_prompt["gold"].mean()),
            scores={
                n: figure(frame.groupby("prompt_key", sort=False)["score"].mean())
                for n, frame in scores.items()
                if frame is not None
            },
            kl_first=None if found["kl"].isna().any() else figure(by_prompt["kl"].mean()),
            kl_previous=_with_error(result.get("kl_previous")),
            wins={name: rate for name, rate in wins.items() if rate is not None},
            choices=self._choices(number),
            **self._round(number),
        )

    def _choices(self, number: int) -> dict[str, float]:
        frame = records.read(self.tasks.evaluate(number).folder(self.out) / "choices.parquet")
        return {} if frame is None else {str(k): float(v) for k, v in frame.groupby("file")["correct"].mean().items()}

    def _round(self, number: int) -> dict[str, Any]:
        if not number:
            return {}
        tasks, plan = self.tasks, self.tasks.rounds[number - 1]
        stages: dict[str, Task | None] = {
            "label": tasks.label(number) if plan.label else None,
            "rank": tasks.rank(number),
            "search": tasks.search(number),
            "score": tasks.score(number) if plan.sample else None,
        }
        came = {name: (task.result(self.out) if task else None) or {} for name, task in stages.items()}
        trainings = [(task, task.result(self.out) or {}) for task in tasks.trainings(number)]
        names = ("rows", "init", "reference", "first loss", "encoding")
        walls = [result.get("wall", 0.0) for result in (*came.values(), *(result for _, result in trainings))]
        return {
            "labels": {k: came["label"][k] for k in ("labels", "held_out", "grades")} if came["label"] else None,
            "reward_model": came["rank"].get("accuracy", {}),
            "temperature": {k: came["search"][k] for k in ("best", "plausible")} if came["search"] else None,
            "sampled": came["score"].get("sampled"),
            "trained": [
                {"method": stage.method, **{n: result[n] for n in names if n in result}}
                for stage, (_, result) in zip(plan.train, trainings, strict=True)
            ],
            "seconds": float(sum(walls)),
        }

    def forgotten(self) -> list[Forgotten]:
        """Prompts whose best earlier answer was better than the newest version's, the largest losses first."""
        if len(self.numbers) < 2:
            return []
        newest = self.numbers[-1]
        tables = {n: rewards for n in self.numbers if (rewards := self.rewards(n)) is not None}
        if newest not in tables:
            return []
        frame = pd.DataFrame(tables)
        earlier = frame.drop(columns=newest)
        lost = (earlier.max(axis=1) - frame[newest]).sort_values(ascending=False, kind="stable")
        prompts = {prompt_key(p): p for p in HeldOutData.read(self.tasks.held_out.folder(self.out)).prompts}
        rows: list[Forgotten] = []
        for key, loss in lost.items():
            if loss <= 0 or len(rows) == FORGOTTEN:
                break
            then = int(earlier.loc[key].idxmax())
            rows.append(
                Forgotten(
                    prompts[str(key)],
                    self._first(then, str(key)),
                    then,
                    float(frame.loc[key, then]),
                    self._first(newest, str(key)),
                    float(frame.loc[key, newest]),
                )
            )
        return rows

    def _first(self, version: int, key: str) -> str:
        found = self.responses(version)
        assert found is not None
        return str(found[found["prompt_key"] == key]["response"].iloc[0])


def _with_error(given: Mapping[str, Any] | None) -> Figure | None:
    if given is None:
        return None
    half = 1.96 * given["error"] if given["error"] is not None and math.isfinite(given["error"]) else 0.0
    return Figure(given["mean"], given["mean"] - half, given["mean"] + half)


def win_rate(tasks: RoundTasks, out: Path, version: int, other: int) -> Figure | None:
    """How often a version's answer is better than another's, by the primary measure; None where that is not known."""
    return Collected(tasks, out).wins(version, other)


def results_of(tasks: RoundTasks, out: Path, pending: Sequence[str] = ()) -> RoundsResults:
    """All that is known of a run so far.

    Raises:
        ValueError: no version was measured.
    """
    collected = Collected(tasks, out)
    if not collected.numbers:
        raise ValueError(f"{out}: no version has been measured yet")
    rewards = {n: table.mean() for n in collected.numbers if (table := collected.rewards(n)) is not None}
    best = max(rewards, key=lambda n: rewards[n]) if rewards else collected.numbers[-1]
    held = HeldOutData.read(tasks.held_out.folder(out))
    return RoundsResults(
        title=tasks.plan.title,
        primary=collected.primary(),
        prompts=len(held.prompts),
        seed=tasks.plan.seed,
        versions=[collected.version(n, best) for n in collected.numbers],
        best=best,
        forgotten=collected.forgotten(),
        pending=pending,
    )

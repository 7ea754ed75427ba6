"""What PPO's rollouts came to, one line each in a file that a kill cannot spoil; `collapse.py` says what they mean.

What is worth recording is what Secrets of RLHF part I (arXiv:2307.04964, section 5.2) watches: scores do not show that
a policy exploits its reward model; KL, length, perplexity and the distribution of scores do.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ...utils import jsonl
from ...utils.renamed import renamed

logger = logging.getLogger(__name__)

FILE = "rollouts.jsonl"
SHOWN = 8
"""How many numbers of missing rollouts are written out."""


class Example(TypedDict):
    """One of a rollout's responses, for people to read."""

    prompt: str
    response: str
    score: float
    finished: bool


@dataclass(frozen=True)
class Record:
    """What is recorded of one rollout, a line of `rollouts.jsonl`.

    Args:
        rollout: its number, from 0.
        step: optimizer steps done before it.
        metrics: means over its responses, such as "objective/kl", in nats, "lengths/response", in tokens, and
            "ppl/policy"; "critic_alone" is 1 where the policy does not learn from it. NaN is what could not be
            measured.
        scores: of every response, as the scorer gave them.
        samples: a few responses.
    """

    rollout: int
    step: int
    metrics: Mapping[str, float]
    scores: list[float] = field(default_factory=list)
    samples: list[Example] = field(default_factory=list)

    @property
    def critic_alone(self) -> bool:
        """Whether only the critic learnt from this rollout."""
        return self.metrics.get("critic_alone") == 1

    def metric(self, name: str) -> float:
        """NaN if it is not there."""
        return self.metrics.get(name, math.nan)


class RolloutLog:
    """The file of a run's rollouts, in their order. Of several processes, one writes.

    A run calls `begin` before its first `add`. Killed at any moment, it leaves a file that `read` reads.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._last: int | None = None
        """Number of the last record, once it is known."""

    def begin(self, first: int, checkpoint: Path | None = None) -> None:
        """Forget the rollouts from number `first` on, which the run is about to make: all of them, or none if killed.

        A checkpoint carries those before it (`keep`), and what is in the file then counts no more: where it was
        damaged, is another run's or is not there at all, it is made anew. Earlier versions' checkpoints carry none; of
        these the file is taken as it is, and rollouts that it lacks are told of: the run itself needs none.

        Args:
            checkpoint: the folder that the run goes on from.

        Raises:
            DamagedFile: see `read`.
            OSError: the disk is full; what the file held is intact.
        """
        carried = None if checkpoint is None else checkpoint / FILE
        if carried is not None and carried.is_file():
            kept = self._taken_from(carried, first)
        else:
            kept = [record for record in self.read() if record.rollout < first]
        jsonl.replace(self.path, map(_row, kept))
        self._tell_missing({*range(first)} - {record.rollout for record in kept})
        self._last = kept[-1].rollout if kept else -1

    def _taken_from(self, carried: Path, first: int) -> list[Record]:
        """What a checkpoint carries of the rollouts before `first`; of a collapse it carries that which showed it."""
        kept, data = [each for each in RolloutLog(carried).read() if each.rollout < first], carried.read_bytes()
        there = self.path.is_file()
        if not there or not self.path.read_bytes().startswith(data):
            state = "is not what this run wrote" if there else "is missing"
            logger.warning("%s %s: it is made anew from %s, %d rollouts", self.path, state, carried, len(kept))
        return kept

    def _tell_missing(self, numbers: set[int]) -> None:
        if not numbers:
            return
        first = sorted(numbers)[:SHOWN]
        more = f" and {len(numbers) - len(first)} more" if len(numbers) > len(first) else ""
        logger.warning(
            "%s lacks rollouts %s: training goes on as it was, but its record, its picture and the guard against "
            "collapse begin without them; restore the file to have them",
            self.path,
            ", ".join(map(str, first)) + more,
        )

    def keep(self, checkpoint: Path) -> None:
        """Put what there is so far into a checkpoint that is being written."""
        if self.path.is_file():
            shutil.copyfile(self.path, checkpoint / FILE)

    def add(self, record: Record) -> None:
        """Add a rollout, and return when it is on the disk.

        Raises:
            ValueError: the file has this rollout, or a later one.
            DamagedFile: see `read`.
            OSError: the disk is full; what the file held is intact.
        """
        if record.rollout <= self._last_number():
            raise ValueError(
                f"{self.path} ends with rollout {self._last}, and rollout {record.rollout} would be there twice or out "
                f"of order: call begin({record.rollout}) to make it again"
            )
        jsonl.append(self.path, [_row(record)])
        self._last = record.rollout

    def read(self) -> list[Record]:
        """All that is there, none if there is no file. A last line that a kill left half-written does not count.

        Raises:
            DamagedFile: a complete line that holds no rollout, or one that does not follow the line before; the
                message names file and line.
        """
        records: list[Record] = []
        for number, row in enumerate(jsonl.read(self.path), 1):
            place = f"{self.path}:{number}"
            record = _record(row, place)
            if records and record.rollout <= records[-1].rollout:
                raise _damaged(place, f"rollout {record.rollout} follows rollout {records[-1].rollout}")
            records.append(record)
        return records

    def _last_number(self) -> int:
        if self._last is None:
            self._last = max((record.rollout for record in self.read()), default=-1)
        return self._last


def _row(record: Record) -> dict[str, Any]:
    samples = [{**sample, "score": _plain(sample["score"])} for sample in record.samples]
    metrics = {name: _plain(value) for name, value in record.metrics.items()}
    scores = list(map(_plain, record.scores))
    return {
        "rollout": record.rollout,
        "step": record.step,
        "metrics": metrics,
        "scores": scores,
        "samples": samples,
    }


def _plain(number: float) -> float | None:
    """JSON has neither NaN nor infinity: both become null, which is read as NaN."""
    return float(number) if math.isfinite(number) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _numbers(values: Iterable[float | None]) -> list[float]:
    return list(map(_number, values))


def _record(row: Mapping[str, Any], place: str) -> Record:
    try:
        metrics = {name: _number(value) for name, value in row["metrics"].items()}
        samples = list(map(_example, row["samples"]))
        return Record(int(row["rollout"]), int(row["step"]), metrics, _numbers(row["scores"]), samples)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(place, f"not a rollout ({type(error).__name__}: {error})") from error


def _example(row: Mapping[str, Any]) -> Example:
    score = _number(row["score"])
    return Example(prompt=row["prompt"], response=row["response"], score=score, finished=row["finished"])


def _damaged(place: str, what: str) -> jsonl.DamagedFile:
    return jsonl.DamagedFile(f"{place}: {what}: restore the file, or delete it from here on")


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Trace": "RolloutLog"})

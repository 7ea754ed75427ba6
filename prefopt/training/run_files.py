"""Reads of any folder what the doctor has to know of the runs in it. Loads no model, and executes nothing it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import pstdev
from typing import Any

from ..doctor.run import Run
from ..utils import jsonl
from .checkpoint import MANIFEST, RUN, steps_of
from .ppo.collapse import Alarm, alarm_of
from .ppo.log import FILE as ROLLOUTS
from .ppo.log import Record, RolloutLog

FILE = "doctor.json"
STATE = "trainer_state.json"
TASK_LOG = "log.jsonl"
"""The log of a comparison's training task."""
KEPT = (FILE, STATE, TASK_LOG, ROLLOUTS)
"""Of these, one makes a folder that of a run."""


def runs_in(folder: str | Path) -> list[tuple[str, Run]]:
    """Every run in a folder with its name: the folder's own, and those below it, as of a comparison.

    Raises:
        ValueError: there is no such folder, or no run in it.
    """
    top = Path(folder).expanduser()
    if top.is_file():
        raise ValueError(f"{folder} is a file: give the folder that it is in, an output_dir")
    if not top.is_dir():
        raise ValueError(f"{folder}: no such folder")
    found = [(str(place.relative_to(top)), read_run(place)) for place in _places(top)]
    if not found:
        raise ValueError(
            f"{folder} holds no run, which has one of {', '.join(KEPT)} or a checkpoint: give an output_dir of "
            "training or of `prefopt compare`"
        )
    return found


def _places(folder: Path) -> Iterator[Path]:
    """Folders of runs, in the order of their names; a checkpoint is part of its run."""
    if any((folder / name).is_file() for name in KEPT) or steps_of(folder) or (folder / "iteration-000").is_dir():
        yield folder
    for below in sorted(folder.iterdir()):
        if below.is_dir() and not below.is_symlink() and not below.name.startswith((".", "checkpoint-")):
            yield from _places(below)


def read_run(folder: Path) -> Run:
    """What a folder holds of a run; what is not there is not known.

    Raises:
        ValueError: a file is damaged; the message names it.
    """
    record = jsonl.read_object(folder / FILE)
    states = [folder / STATE, *(folder / f"checkpoint-{step}" / STATE for step in steps_of(folder)[-1:])]
    logs = [record.get("logs") or [], *(jsonl.read_object(state).get("log_history") or [] for state in states)]
    logs.append(list(jsonl.read(folder / TASK_LOG)))
    facts = dict(record.get("facts") or {}) or _of_checkpoint(folder)
    records = RolloutLog(folder / ROLLOUTS).read()
    alarm = _first_alarm(records)
    return Run(
        logs=max(logs, key=len),
        facts=facts if alarm is None else {**facts, "collapse": _figures(alarm)},
        rollouts=[{**each.metrics, "score_spread": _spread(each.scores)} for each in records],
        iterations=[row for place in sorted(folder.glob("iteration-*/report.json")) for row in jsonl.read(place)],
    )


def read_facts(folder: Path) -> Mapping[str, Any]:
    """What a run has noted of itself, nothing if it has not."""
    return jsonl.read_object(folder / FILE).get("facts") or {}


def _of_checkpoint(folder: Path) -> dict[str, Any]:
    """The objective by the record of a run of iterations or the newest checkpoint: older versions noted no more."""
    if iterations := jsonl.read_object(folder / RUN):
        return {"objective": {**iterations, "name": iterations.get("objective")}}
    for step in steps_of(folder)[-1:]:
        objective = (jsonl.read_object(folder / f"checkpoint-{step}" / MANIFEST).get("run") or {}).get("objective")
        return {"objective": objective} if isinstance(objective, Mapping) else {}
    return {}


def _first_alarm(records: list[Record]) -> Alarm | None:
    """As training raises it: of the first rollouts after which there is one."""
    alarms = (alarm_of(records[:count]) for count in range(1, len(records) + 1))
    return next((alarm for alarm in alarms if alarm is not None), None)


def _figures(alarm: Alarm) -> dict[str, Any]:
    first, last = alarm.rollouts
    words = ", ".join(alarm.signs.values())
    return {"first": first, "last": last, "signs": list(alarm.signs), "words": words, "last_good": alarm.last_good}


def _spread(scores: list[float]) -> float | None:
    return pstdev(scores) if len(scores) > 1 else None

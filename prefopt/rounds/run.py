"""Runs a plan of rounds: what is done is not done again, and where labels by people are awaited, it stops."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from ..compare.run import interruptible, locked
from ..tasks import Progress, Schedule, Task, in_order
from ..utils import files, jsonl, secrets
from ..utils.extensions import file_of
from ..utils.files import require_folder
from ..utils.signals import GRACE
from ..utils.visible import visible
from .context import place_of
from .estimate import estimate, room_of
from .plan import RoundsPlan, read_rounds_plan, rounds_plan_from
from .tasks import PARTS, RoundTasks

logger = logging.getLogger(__name__)

LINEAGE = "lineage.json"


@dataclass(frozen=True)
class RoundsRun:
    """How far a run has come.

    Args:
        versions: the numbers of the versions that are there, 0 among them.
        waits: what it waits for, in words.
        failures: stage -> why it failed.
        stopped: why rounds ended before the plan's end, or None.
    """

    out: Path
    versions: tuple[int, ...]
    waits: tuple[str, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    stopped: str | None = None


def run_rounds(
    plan: RoundsPlan | Mapping[str, Any] | str | Path,
    output_dir: str | Path,
    *,
    jobs: int | None = None,
    signal_grace: float = GRACE,
    console: Console | None = None,
) -> RoundsRun:
    """Do the rounds of a plan; each ends with a version of the policy, `rlhf-vN/policy`, that loads alone.

    In `output_dir` are `plan.yaml` and a folder `rlhf-vN` for each round, with the policy, the reward model, a record
    of where they come from, and a folder for each stage, named by a hash of what it depends on. To call it again does
    what is missing: after a kill, a failure, labels that have come, or when the plan has more rounds than before.

    Args:
        plan: the path of a YAML file, a mapping that such a file could hold, or a `RoundsPlan`.
        jobs: processes at a time; by default one for each GPU, and one without any.
        signal_grace: on SIGTERM, SIGHUP and Ctrl-C trainings finish their step and save a checkpoint, within so many
            seconds at most.

    Raises:
        Interrupted: a signal has ended it; Ctrl-C's is a KeyboardInterrupt too.
        PlanError: the plan cannot be carried out; nothing was begun.
    """
    out = Path(output_dir).expanduser().resolve()
    plan = read_rounds_plan(plan) if isinstance(plan, str | Path) else rounds_plan_from(plan)
    secrets.remember(plan)
    console = console or Console()
    _announce(plan, console)
    tasks = RoundTasks(plan)
    wanted = tasks.report_tasks()
    require_folder(out)
    gpus = torch.cuda.device_count()
    jobs = jobs or max(1, gpus)
    stopped = None
    for line in estimate(tasks, out).lines(files.free(out)):
        console.print(visible(line), markup=False, highlight=False, soft_wrap=True)
    with interruptible(out, signal_grace), locked(out), Progress(console, out, jobs) as progress:
        kept = secrets.without_secrets(plan.plain())
        files.replace(out / "plan.yaml", yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))
        schedule = Schedule(out, jobs, progress, gpus, signal_grace)
        for number in range(len(plan.each) + 1) if plan.stop_below is not None else (None,):
            schedule.run(_until(wanted, number))
            _publish(tasks, out)
            if number and (stopped := _fell(tasks, out, number, plan.stop_below)):
                break
    return _run_of(tasks, wanted, out, stopped)


def _announce(plan: RoundsPlan, console: Console) -> None:
    """Say which files the plan has run, before any of them is."""
    for where, module in plan.imports:
        if (file := file_of(module)) is not None:
            line = f"{where}: imports {module}, which runs {file}"
            console.print(visible(line), markup=False, highlight=False, soft_wrap=True)


def _until(wanted: Iterable[Task], number: int | None) -> list[Task]:
    """The tasks of the rounds up to one; all of them for None."""
    return [task for task in wanted if number is None or all(_round(t) <= number for t in (*task.dependencies(), task))]


def _round(task: Task) -> int:
    return int(getattr(task, "round", 0))


def _fell(tasks: RoundTasks, out: Path, number: int, below: float | None) -> str | None:
    """Why the rounds end with this one: its win rate against the version before lies clearly below what is wanted."""
    from .results import win_rate

    rate = win_rate(tasks, out, number, number - 1)
    if below is None or rate is None or rate.high >= below:
        return None
    return (
        f"v{number} wins {rate.mean:.1%} [{rate.low:.1%}, {rate.high:.1%}] of held-out prompts against v{number - 1}, "
        f"below stop_below={below:.0%}: rounds end here, and v{number - 1} is the better one"
    )


def _publish(tasks: RoundTasks, out: Path) -> None:
    """Give the models of each round that is done their names: `rlhf-vN/policy`, `rlhf-vN/reward`, and their record."""
    for number in range(len(tasks.rounds) + 1):
        policy = tasks.policy_of(number)
        if policy.result(out) is None:
            continue
        folder = out / f"rlhf-v{number}"
        _link(Path(place_of(policy, out)), folder / "policy")
        reward = tasks.reward(number) if number else None
        if reward is not None and reward.result(out) is not None:
            for name, model in published(reward).items():
                _link(Path(place_of(model, out)), folder / name)
        jsonl.replace(folder / LINEAGE, [_lineage(tasks, out, number)])


def published(reward: Task) -> dict[str, Task]:
    """The names of a round's reward models below its folder: of two, that of safety has another one."""
    if reward.kind != "combine":
        return {"reward": reward}
    return {"reward": reward.needs[PARTS[0]], "reward-safety": reward.needs[PARTS[1]]}


def _link(model: Path, name: Path) -> None:
    """A plain folder of the same files, which take no further room where the file system can link them."""
    if not model.is_dir():
        return
    marker = name / ".of"
    if marker.is_file() and marker.read_text() == str(model):
        return
    staged = name.with_name(f".{name.name}.staging")
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(model, staged, copy_function=_linked)
    (staged / ".of").write_text(str(model))
    shutil.rmtree(name, ignore_errors=True)
    os.replace(staged, name)


def _linked(source: str, target: str) -> str:
    with suppress(OSError):
        os.link(source, target)
        return target
    return str(shutil.copy2(source, target))


def _lineage(tasks: RoundTasks, out: Path, number: int) -> dict[str, Any]:
    """What data, which reward model and which code made a version: every stage with its folder and what it came to."""
    reward = tasks.reward(number) if number else None
    stages = in_order([tasks.policy_of(number), *([] if reward is None else [reward])])
    kept = ("rows", "prompts", "labels", "init", "reference", "first loss", "temperature", "best", "packages", "wall")
    record = {}
    for task in stages:
        result = task.result(out) or {}
        record[task.key] = {
            "needs": {role: needed.key for role, needed in task.needs.items()},
            **{name: result[name] for name in kept if name in result},
        }
    return {"version": f"v{number}", "policy": tasks.policy_of(number).key, "stages": record}


def _run_of(tasks: RoundTasks, wanted: list[Task], out: Path, stopped: str | None) -> RoundsRun:
    waits, failures = [], {}
    for task in in_order(wanted):
        if task.result(out) is None and (failure := task.failure(out)) is not None:
            if failure.get("waits"):
                waits.append(f"v{_round(task)}: {failure['reason']}")
            else:
                failures[task.label] = failure["reason"]
    versions = tuple(n for n in range(len(tasks.rounds) + 1) if tasks.policy_of(n).result(out) is not None)
    return RoundsRun(out, versions, tuple(waits), failures, stopped)


def status_of(tasks: RoundTasks, output_dir: str | Path) -> list[str]:
    """How far a run is: a line for each stage of each round, with its time and its disk space if it is done.

    And at the end what the others will take, as far as it is known.
    """
    out = Path(output_dir).expanduser().resolve()
    lines, done, seconds, size = [], 0, 0.0, 0
    every = in_order(tasks.report_tasks())
    for task in sorted(every, key=_round):
        result, failure = task.result(out), task.failure(out)
        if result is not None:
            done, seconds, room = done + 1, seconds + result["wall"], room_of(task.folder(out))
            size += room
            lines.append(f"{task.label}: done in {result['wall']:.0f} s, {room / 1e6:.1f} MB")
        elif failure is not None:
            lines.append(f"{task.label}: {'waits' if failure.get('waits') else 'failed'}: {failure['reason']}")
        else:
            ready = all(needed.result(out) is not None for needed in task.needs.values())
            lines.append(f"{task.label}: {'next' if ready else 'to come'}")
    lines.append(f"{done} of {len(every)} stages, {seconds:.0f} s, {size / 1e6:.1f} MB")
    return [*lines, *estimate(tasks, out).lines(files.free(out))]

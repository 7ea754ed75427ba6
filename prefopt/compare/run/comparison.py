"""Runs a comparison from its plan to its report; what an earlier run has done is not done again."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from rich.console import Console

from ...training.trainers import RewardConfig, SFTConfig
from ...utils import files
from ...utils.signals import GRACE, Interrupted, interrupted, listening, name_of
from ..measure import Endpoint, judge_from
from ..plan import Plan, PlanError, built, plan_from, read_plan
from ..report import Findings, findings_of, write_report
from .collected_results import CollectedResults
from .hyperparameter_grid import choose_best, trials
from .progress import Progress
from .schedule import Schedule
from .tasks import Tasks, check_training

logger = logging.getLogger(__name__)


def compare(
    plan: Plan | Mapping[str, Any] | str | Path,
    output_dir: str | Path,
    *,
    jobs: int | None = None,
    lang: str = "en",
    keep_going: bool = False,
    report_only: bool = False,
    signal_grace: float = GRACE,
    console: Console | None = None,
) -> Findings:
    """Train every method of a plan with every seed, evaluate all alike, and write the report.

    In `output_dir`, beside a folder for each kind of task, are `plan.yaml` and `report/`. To call it again does what is
    missing: after a kill, after a failure, or when the plan has more methods, seeds or prompts than before.

    Args:
        plan: the path of a YAML file, a mapping that such a file could hold, or a `Plan`.
        jobs: processes at a time; by default one for each GPU, and one without any.
        lang: of the report: "en" or "zh".
        keep_going: leave out methods that there are not, instead of refusing the plan, and say so in the report.
        report_only: of what is done already.
        signal_grace: on SIGTERM, SIGHUP and Ctrl-C trainings finish their step and save a checkpoint, within so many
            seconds at most.

    Raises:
        Interrupted: a signal has ended it; Ctrl-C's is a KeyboardInterrupt too.
        PlanError: the plan cannot be carried out; nothing was begun.
        ValueError: the data cannot be used.
    """
    if parent_process() is not None:
        raise RuntimeError("a process of a comparison began it again: call compare under `if __name__ == '__main__':`")
    out = Path(output_dir).expanduser().resolve()
    plan = read_plan(plan) if isinstance(plan, str | Path) else plan_from(plan)
    plan, notes = _without_unknown(plan) if keep_going else (plan, [])
    check_training(plan)
    tried = trials(plan, Tasks(plan))
    _check(plan, out)
    out.mkdir(parents=True, exist_ok=True)
    gpus = torch.cuda.device_count()
    with (
        _interruptible(out, signal_grace),
        _locked(out),
        Progress(console or Console(), out, jobs or max(1, gpus)) as progress,
    ):
        _write_plan(plan, out)
        schedule = Schedule(out, jobs or max(1, gpus), progress, gpus, signal_grace)
        if tried and not report_only:
            schedule.run([trial.task for trial in tried])
        chosen = choose_best(plan, tried, out)
        collected = CollectedResults(chosen, Tasks(chosen), out, tried, notes)
        if not report_only:
            schedule.run(collected.all_tasks())
        findings = findings_of(collected.experiment(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])))
        write_report(findings, out / "report", lang)
    return findings


@contextmanager
def _interruptible(out: Path, grace: float) -> Iterator[None]:
    """Let a signal end the comparison, and say how to go on.

    Raises:
        Interrupted: a signal has come.
    """
    with listening(grace, lambda ending: logger.warning("%s", ending)):
        try:
            yield
        except Interrupted as ending:
            text = f"Interrupted by {name_of(ending.signum)}. What is done stays in {out}: to go on, do the same again"
            raise interrupted(ending.signum, text) from None


def _check(plan: Plan, out: Path) -> None:
    """Raise every error that can be known before anything is begun."""
    for judge in plan.active_judges:
        judge_from(judge, folder=out)
        if isinstance(judge, Mapping) and "endpoint" in judge:
            built(Endpoint, judge, "judges").key()
    list(CollectedResults(plan, Tasks(plan), out, [], []).all_tasks())
    for name, kind, settings in _configs(plan):
        try:
            kind(output_dir=str(out), use_cpu=True, **settings)
        except (ValueError, TypeError) as error:
            raise PlanError(f"{name}: {error}") from error


def _configs(plan: Plan) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Of every training: where the plan says it, the type of its config, and the arguments."""
    for name, kind, settings in (("sft", SFTConfig, plan.sft), ("reward", RewardConfig, plan.reward)):
        if isinstance(settings, Mapping):
            shared = {
                key: value for key, value in plan.training.items() if key in {field.name for field in fields(kind)}
            }
            yield name, kind, {**shared, **settings}
    for spec in plan.method_specs.values():
        if spec.trains and spec.trainer is not None:
            yield f"methods: {spec.name}", spec.config, dict(spec.arguments)


def _without_unknown(plan: Plan) -> tuple[Plan, list[dict[str, Any]]]:
    """The plan without its unknown methods, and a warning about each of these."""
    plan, wrong = plan.without_unknown()
    return plan, [
        {"key": "unknown_method", "values": {"name": name, "hint": hint}, "serious": True}
        for name, hint in wrong.items()
    ]


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep other runs out of the folder.

    Raises:
        ValueError: another run is at work there.
    """
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ValueError(f"{out}: another run is at work there: wait for it, or take another output_dir") from error


def _write_plan(plan: Plan, out: Path) -> None:
    files.replace(out / "plan.yaml", yaml.safe_dump(plan.plain(), sort_keys=False, allow_unicode=True))

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
from typing import Any, cast

import torch
import yaml
from filelock import FileLock, Timeout
from rich.console import Console

from ...objectives.base import module_of
from ...scoring.http import is_service, service_from
from ...tasks import Progress, Schedule
from ...training.trainers import RewardConfig, SFTConfig
from ...utils import files, secrets
from ...utils.extensions import file_of
from ...utils.files import require_folder
from ...utils.signals import GRACE, Interrupted, interrupted, listening, name_of
from ...utils.visible import visible
from ..measure import Endpoint, judge_from, kept_of_judge
from ..plan import Imported, Plan, PlanError, built, instead_of_imports, method_key, plan_from, read_plan
from ..report import Findings, findings_of, write_report
from .collected_results import CollectedResults
from .hyperparameter_grid import Trial, choose_best, trials
from .tasks import Tasks, check_training, shares_reference, stands_for

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
        report_only: of what is done already; none of the code that the plan names is imported.
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
    secrets.remember_words(sys.argv[1:])  # which the report shows
    plan = read_plan(plan) if isinstance(plan, str | Path) else plan_from(plan)
    secrets.remember(plan)
    console = console or Console()
    with interruptible(out, signal_grace):
        if report_only:
            with instead_of_imports(out):
                findings = _findings(_collected(plan, out, console, 0, keep_going, signal_grace))
        else:
            _check_whole(plan)
            _announce(plan, console)
            jobs = jobs or max(1, torch.cuda.device_count())
            findings = _findings(_collected(plan, out, console, jobs, keep_going, signal_grace))
        write_report(findings, out / "report", lang)
    return findings


def _collected(plan: Plan, out: Path, console: Console, jobs: int, keep_going: bool, grace: float) -> CollectedResults:
    """The results, after what is missing was done in so many processes at a time; with none, what is there."""
    plan, notes = _without_unknown(plan) if keep_going else (plan, [])
    if jobs:
        check_training(plan)
    tried = trials(plan, Tasks(plan))
    if jobs:
        _check(plan, out)
    require_folder(out)
    with locked(out), Progress(console, out, max(1, jobs)) as progress:
        if jobs:
            _write_plan(plan, out)
            _keep_imported(plan, tried, out)
        schedule = Schedule(out, max(1, jobs), progress, torch.cuda.device_count(), grace)
        if tried and jobs:
            schedule.run([trial.task for trial in tried])
        chosen = choose_best(plan, tried, out)
        collected = CollectedResults(chosen, Tasks(chosen), out, tried, notes)
        if jobs:
            schedule.run(collected.all_tasks())
    return collected


def _findings(collected: CollectedResults) -> Findings:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return cast(Findings, secrets.without_secrets(findings_of(collected.experiment(command))))


def _announce(plan: Plan, console: Console) -> None:
    """Say which files the plan has run, before any of them is."""
    for where, module in plan.imports:
        if (file := file_of(module)) is not None:
            line = f"{where}: imports {module}, which runs {file}"
            console.print(visible(line), markup=False, highlight=False, soft_wrap=True)


def _keep_imported(plan: Plan, tried: list[Trial], out: Path) -> None:
    """Keep what a report needs to know of the code that the plan names."""
    kept = Imported.read(out)
    for spec in (*plan.method_specs.values(), *(trial.spec for trial in tried)):
        if spec.trains and module_of(spec.method) is not None:
            key = method_key(spec.name, spec.method, spec.settings, plan.training)
            kept.methods[key] = {
                "arguments": spec.arguments,
                "needs_reward_model": spec.needs_reward_model,
                "source": spec.source_fingerprint,
                "shares_reference": shares_reference(spec),
                "stands for": stands_for(spec),
            }
    kept.judges.update(filter(None, (kept_of_judge(judge, out) for judge in plan.active_judges)))
    if kept.methods or kept.judges:
        kept.write(out)


@contextmanager
def interruptible(out: Path, grace: float) -> Iterator[None]:
    """Let a signal end what is done inside, and say how to go on.

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
    for service in filter(is_service, (plan.reward, *plan.active_judges)):
        service_from(service).check_key()
    list(CollectedResults(plan, Tasks(plan), out, [], []).all_tasks())
    for name, kind, settings in _configs(plan):
        try:
            kind(output_dir=str(out), use_cpu=True, **settings)
        except (ValueError, TypeError) as error:
            raise PlanError(f"{name}: {error}") from error


def _configs(plan: Plan) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Of every training: where the plan says it, the type of its config, and the arguments."""
    for name, kind, settings in (("sft", SFTConfig, plan.sft), ("reward", RewardConfig, plan.reward)):
        if isinstance(settings, Mapping) and not is_service(settings):
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
def locked(out: Path) -> Iterator[None]:
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
    plain = secrets.without_secrets(plan.plain())
    files.replace(out / "plan.yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def _check_whole(plan: Plan) -> None:
    """Refuse the copy of a plan that lacks a secret, where the plan is to be carried out.

    Raises:
        PlanError: it lacks one.
    """
    if lacking := list(secrets.marks_in(plan.plain())):
        raise PlanError(
            f"{lacking[0]}: {secrets.MARK} stands for a secret that the copy of a plan does not hold: write it there, "
            "or leave the setting out and give it by its environment variable, such as HF_TOKEN"
        )

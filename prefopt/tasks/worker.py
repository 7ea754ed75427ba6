"""Runs one task in a process of its own, and writes down how it ended."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from multiprocessing import parent_process
from pathlib import Path

from ..utils import jsonl, secrets
from ..utils.files import path_of_error, require_folder
from ..utils.signals import listening
from ..utils.visible import VisibleFormatter
from . import done, launched
from .done import CHECKPOINTS, FAILED, LOG
from .task import Task, Waiting

PACKAGES = ("prefopt", "torch", "transformers", "accelerate", "peft", "datasets", "numpy", "scipy")
GRACE = 0.9
"""A process has this share of the time that a signal leaves to the whole comparison, which waits for it."""
TRACEBACK_LINES = 30
"""How many lines of a traceback are kept, the last ones."""


def set_up_process(out: Path, threads: int, gpu: str | None, environment: Mapping[str, str]) -> None:
    """Prepare a process for its tasks: environment, caches, threads, GPU, logging, signals."""
    os.environ.update(environment)  # a server of processes keeps that of its own start
    for name in ("SIGINT", "SIGHUP"):  # which a terminal sends to all: the first process passes them on, as SIGTERM
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    os.environ["PREFOPT_CACHE"] = str(out / "cache")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    launched.devices = os.environ.get(launched.VISIBLE)
    if gpu is not None:
        os.environ[launched.VISIBLE] = gpu
    threading.Thread(target=_end_with_parent, daemon=True).start()
    secrets.guard_streams()
    import torch
    from datasets import disable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(threads)
    disable_progress_bars()
    disable_progress_bar()
    handler = logging.StreamHandler()
    handler.setFormatter(VisibleFormatter("%(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("prefopt").setLevel(logging.INFO)


def _end_with_parent() -> None:
    """End this process when its parent ends, so that a run that was killed leaves no process behind."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def run_task(task: Task, out: Path, grace: float) -> bool:
    """Do a task, and write its result, or why there is none, into its folder; returns whether it is done.

    Args:
        grace: seconds that a signal leaves it: a training ends with its step, and a checkpoint.
    """
    try:
        with listening(GRACE * grace) as signals, signals.at_once(task.kind not in task.trainings):
            _run(task, out, GRACE * grace)
    except Waiting as wanted:
        jsonl.replace(task.folder(out) / FAILED, [{"reason": str(wanted), "details": "", "waits": True}])
        return False
    except (Exception, SystemExit) as error:  # whatever a user's file raises, the other cells go on
        if task.result(out) is not None:  # the signal came when it was done
            return True
        lines = (getattr(error, "details", "") or traceback.format_exc()).strip().splitlines()
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError) and not error.filename:  # as of a write
            reason += f": {path_of_error(error, task.folder(out))}"
        return fail(task, out, reason, "\n".join(lines[-TRACEBACK_LINES:]))
    return True


def _run(task: Task, out: Path, grace: float) -> None:
    secrets.remember(task.inputs)
    folder, began = task.folder(out), time.monotonic()
    _clear(folder, keep=task.kind in task.trainings | task.resumable)
    for needed in task.needs.values():
        done.check(needed.folder(out))
    with _logged(folder / LOG):
        launcher = task.launcher
        result = (
            launched.run_launched(task, out, launcher, grace)
            if launcher
            else import_module(task.functions).run(task, out)
        )
    about = {"wall": time.monotonic() - began, "label": task.label, "packages": versions()}
    done.write(folder, {**result, **about}, edited=task.kind in task.edited)
    for checkpoint in folder.glob(CHECKPOINTS):
        shutil.rmtree(checkpoint)


def versions() -> dict[str, str]:
    """The installed versions of the packages that the numbers depend on."""
    return {name: version(name) for name in PACKAGES}


def fail(task: Task, out: Path, reason: str, details: str = "") -> bool:
    """Write down why a task failed; returns False, which is whether it is done.

    Raises:
        OSError: that could not be written; the message has the reason.
    """
    first = reason.strip().splitlines()[0] if reason.strip() else "no reason was given"
    record = secrets.without_secrets({"reason": first, "details": details})
    try:
        jsonl.replace(task.folder(out) / FAILED, [record])
    except OSError as error:
        said = f"{task.label}: {record['reason']}; and this could not be written down: {error.strerror}"
        raise OSError(error.errno, said, error.filename) from error
    return False


def _clear(folder: Path, keep: bool) -> None:
    """Delete what an earlier attempt left, except what a training can resume from."""
    (folder / FAILED).unlink(missing_ok=True)
    if folder.exists() and not keep:
        shutil.rmtree(folder)
    require_folder(folder)


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Append everything that this process prints to a file, also what compiled code prints."""
    sys.stdout.flush()
    sys.stderr.flush()
    own = os.dup(1), os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in enumerate(own, 1):
                os.dup2(copy, number)
                os.close(copy)

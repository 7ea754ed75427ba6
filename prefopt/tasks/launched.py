"""Does a task in several processes, which a launcher starts: torchrun, or accelerate with a config of its own.

The launcher runs this module once for each process. All of them do the task, as ranks of one run; the first one's
result is the task's.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..utils import files, secrets
from ..utils.signals import listener, listening
from ..utils.visible import VisibleFormatter
from .task import Task

TASK, RESULT, FAILED, ALIVE = "task", "result.json", "failed-{rank}.txt", "alive.lock"
VISIBLE = "CUDA_VISIBLE_DEVICES"
TICK = 0.2
"""Seconds between two looks at whether the launcher has ended, or a signal has come."""


devices: str | None = None
"""The GPUs of the whole program, as `VISIBLE` names them: a task with a launcher has all of them."""


class LaunchError(RuntimeError):
    """A process that a launcher has started failed, or the launcher itself did; `details` is the traceback."""

    def __init__(self, message: str, details: str = ""):
        super().__init__(message)
        self.details = details


def command_of(launcher: str) -> list[str]:
    """The words of a launcher's command line, its program looked for beside this Python first, as in an environment.

    Raises:
        ValueError: there is no such program, or the text is no command line.
    """
    try:
        program, *words = shlex.split(launcher)
    except ValueError as error:
        raise ValueError(
            f"launch: {launcher!r} is no command line ({error}): write `torchrun --nproc_per_node 2`"
        ) from None
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    found = shutil.which(program, path=beside)
    if found is None:
        raise ValueError(f"launch: there is no program {program!r}: write `torchrun --nproc_per_node 2`, or its path")
    return [found, *words]


def run_launched(task: Task, out: Path, launcher: str, grace: float) -> dict[str, Any]:
    """The result of a task that the processes of a launcher do. A signal is passed on, and then ends this one too.

    Raises:
        LaunchError: a process failed; the message quotes it.
        Interrupted: a signal came.
    """
    with tempfile.TemporaryDirectory(prefix="prefopt-") as folder:  # of this user alone
        place = Path(folder)
        (place / TASK).write_bytes(pickle.dumps((task, out, grace)))
        environment = {name: value for name, value in os.environ.items() if name != VISIBLE}
        environment |= {} if devices is None else {VISIBLE: devices}
        with FileLock(place / ALIVE):  # which is free when this process is gone, whatever has ended it
            process = subprocess.Popen([*command_of(launcher), "-m", __name__, folder], env=environment)
            try:
                _wait(process)
            finally:
                if process.poll() is None:
                    process.kill()
        listener().check()
        if process.returncode == 0 and (place / RESULT).is_file():
            return dict(json.loads((place / RESULT).read_text("utf-8")))
        raise _error(place, launcher, process.returncode)


def _wait(process: subprocess.Popen[bytes]) -> None:
    told = False
    while process.poll() is None:
        if listener().signum is not None and not told:
            told = True
            process.terminate()
        try:
            process.wait(TICK)
        except subprocess.TimeoutExpired:
            continue


def _error(place: Path, launcher: str, status: int) -> LaunchError:
    """What the first process that failed says; others fail for want of it, later."""
    said = sorted(place.glob(FAILED.format(rank="*")), key=lambda path: path.stat().st_mtime_ns)
    if not said:
        return LaunchError(f"`{launcher}` ended with status {status}, and none of its processes said why")
    reason, _, details = said[0].read_text("utf-8").partition("\n")
    rank = said[0].stem.rpartition("-")[2]
    return LaunchError(f"process {rank} of `{launcher}`: {reason}", details)


def main(folder: str) -> None:
    """A process that the launcher has started."""
    rank, place = os.environ.get("RANK", "0"), Path(folder)
    _set_up(rank)
    threading.Thread(target=_end_with_parent, args=(place,), daemon=True).start()
    task, out, grace = pickle.loads((place / TASK).read_bytes())
    secrets.remember(task.inputs)
    try:
        with listening(grace):
            result = import_module(task.functions).run(task, out)
    except Exception as error:
        details = secrets.without_secrets(traceback.format_exc())
        reason = secrets.without_secrets(f"{type(error).__name__}: {error}".strip().splitlines()[0])
        files.replace(place / FAILED.format(rank=rank), f"{reason}\n{details}")
        raise
    if rank == "0":
        files.replace(place / RESULT, json.dumps(result))


def _end_with_parent(place: Path) -> None:
    """End this process when the one that has called the launcher ends: the next attempt would find it at work."""
    FileLock(place / ALIVE).acquire(poll_interval=1.0)
    os._exit(1)


def _set_up(rank: str) -> None:
    """Say what a task's process says, once."""
    secrets.guard_streams()
    from datasets import disable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bars()
    disable_progress_bar()
    handler = logging.StreamHandler()
    handler.setFormatter(VisibleFormatter("%(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING if rank == "0" else logging.ERROR, force=True)
    if rank == "0":
        logging.getLogger("prefopt").setLevel(logging.INFO)


if __name__ == "__main__":
    main(sys.argv[1])

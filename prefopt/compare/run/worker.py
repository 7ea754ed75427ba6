"""Carries out one task in a process of its own, and leaves a word of how it ended. Knows no order and no other task."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from multiprocessing import parent_process
from pathlib import Path

from ...utils import jsonl
from .tasks import DONE, FAILED, Task

LOG = "log.txt"
PACKAGES = ("prefopt", "torch", "transformers", "accelerate", "peft", "datasets", "numpy", "scipy")
LINES = 30
"""Of a traceback, the last ones."""


def begin(out: Path, threads: int, gpu: str | None) -> None:
    """Set up a process before its first task."""
    os.environ["PREFOPT_CACHE"] = str(out / "cache")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch
    from datasets import disable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(threads)
    disable_progress_bars()
    disable_progress_bar()
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING, force=True)
    logging.getLogger("prefopt").setLevel(logging.INFO)


def _end_with_parent() -> None:
    """A run that was killed and begun again must not meet its own left-over processes."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def carry_out(task: Task, out: Path) -> bool:
    """Whether the task is done; what it came to, or why not, is in its folder."""
    from .job import Job
    from .work import WORK

    job, began = Job(task, out), time.monotonic()
    _clear(job.folder, keep=task.kind == "train")
    try:
        with _logged(job.folder / LOG):
            result = WORK[task.kind](job)
    except (Exception, SystemExit) as error:  # whatever a stranger's file raises, the other cells go on
        lines = traceback.format_exc().strip().splitlines()
        return fail(task, out, f"{type(error).__name__}: {error}", "\n".join(lines[-LINES:]))
    about = {"wall": time.monotonic() - began, "label": task.label, "packages": versions()}
    jsonl.replace(job.folder / DONE, [{**result, **about}])
    return True


def versions() -> dict[str, str]:
    """Of what the numbers depend on, as installed here."""
    return {name: version(name) for name in PACKAGES}


def fail(task: Task, out: Path, reason: str, details: str = "") -> bool:
    """Write down why a task is not done. Returns False: it is not."""
    first = reason.strip().splitlines()[0] if reason.strip() else "no reason was given"
    jsonl.replace(task.folder(out) / FAILED, [{"reason": first, "details": details}])
    return False


def _clear(folder: Path, keep: bool) -> None:
    """Take away what an earlier attempt left, but for what a training may go on from."""
    (folder / FAILED).unlink(missing_ok=True)
    if folder.exists() and not keep:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What this process prints goes to a file, whoever prints it."""
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

"""Where the processes of tasks come from: without a GPU from a server that has imported everything once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable
from multiprocessing.context import BaseContext

from .task import Task


def process_context(tasks: Iterable[Task], gpus: int) -> BaseContext:
    """What starts processes for these tasks.

    A server that imports the tasks' code, and forks itself, saves each process the seconds that these imports take.
    With a GPU every process is begun anew: whatever an import has asked of the driver does not survive a fork.
    """
    if gpus or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(sorted({task.functions for task in tasks}))  # no effect on one that runs already
    return context

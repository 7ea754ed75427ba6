"""Runs tasks in several processes, each task when the tasks that it needs are done.

A process that dies takes its own task with it, and no other: the next one gets a new process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Protocol

from ..utils.signals import GRACE
from . import done
from .processes import process_context
from .task import Task, in_order
from .worker import fail, run_task, set_up_process

TICK = 0.5
"""Seconds between two updates of the display."""


class Status(StrEnum):
    """How far a task is, in the words that a progress display has."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    BLOCKED = "blocked"
    PAUSED = "waits"
    """It waits for something from outside, and is no failure."""


class Display(Protocol):
    """What shows the progress: it is told of every change."""

    def changed(self, task: Task, status: Status) -> None: ...

    def tick(self) -> None: ...


@dataclass
class Slot:
    """A process, and the task that it runs."""

    out: Path
    context: BaseContext
    threads: int
    gpu: str | None
    grace: float
    task: Task | None = None
    future: Future[bool] | None = None
    _pool: ProcessPoolExecutor | None = None
    _asked: bool = False

    def start(self, task: Task) -> None:
        if self._pool is None:
            arguments = (self.out, self.threads, self.gpu, dict(os.environ))
            self._pool = ProcessPoolExecutor(1, self.context, set_up_process, arguments)
        self.task, self.future = task, self._pool.submit(run_task, task, self.out, self.grace)

    def finish(self) -> tuple[Task, bool]:
        """The task that has ended, and whether it is done."""
        assert self.task is not None and self.future is not None
        task, future = self.task, self.future
        self.task = self.future = None
        try:
            succeeded = future.result()
        except BrokenProcessPool:
            succeeded = fail(task, self.out, "the process died without a word: killed, most often for memory")
        except Exception as error:  # not the task's own, which its process writes down: a full disk, say
            succeeded = fail(task, self.out, f"{type(error).__name__}: {error}")
        if not succeeded:
            self.stop()  # whatever state the failure left behind goes with the process
        return task, succeeded

    def terminate(self) -> None:
        """Ask the process to end its task, without waiting for it."""
        if self._pool is not None and self.task is not None and not self._asked:
            self._asked = True
            for process in list((self._pool._processes or {}).values()):
                process.terminate()

    def stop(self) -> None:
        """End the process; of the task that it has, a training saves a checkpoint first, as `signal_grace` allows."""
        if self._pool is None:
            return
        self.terminate()
        self._pool.shutdown(cancel_futures=True)
        self.task = self.future = self._pool = None
        self._asked = False


@dataclass
class Schedule:
    """Runs tasks, and knows the status of each.

    Args:
        jobs: how many processes run at a time.
        gpus: how many GPUs there are; where there are several, the processes take them in turn.
        grace: seconds that a signal leaves to all.
    """

    out: Path
    jobs: int
    display: Display
    gpus: int = 0
    grace: float = GRACE
    status: dict[str, Status] = field(default_factory=dict)

    def run(self, tasks: Iterable[Task]) -> None:
        """Run the tasks that are not done, and those that they need; why one failed is in its folder."""
        waiting = [task for task in in_order(tasks) if self._new(task)]
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        context = process_context(waiting, self.gpus)
        slots = [Slot(self.out, context, threads, _gpu(n, self.gpus), self.grace) for n in range(self.jobs)]
        try:
            while waiting or any(slot.task for slot in slots):
                waiting = self._start(waiting, slots)
                self._wait(slots)
        finally:
            for slot in slots:
                slot.terminate()
            for slot in slots:
                slot.stop()

    def _new(self, task: Task) -> bool:
        """Whether a task has to be run.

        Raises:
            DamagedFile: it is done, and a file of its result is not what was written.
        """
        if self.status.get(task.key) is Status.DONE:
            return False
        result = task.result(self.out)
        whole = result is not None and not result.get("again")  # as of a judge that failed at times
        if whole:
            done.check(task.folder(self.out), below=done.SMALL)
        self._set(task, Status.DONE if whole else Status.WAITING)
        return not whole

    def _ended(self, task: Task) -> Status:
        return Status.PAUSED if (task.failure(self.out) or {}).get("waits") else Status.FAILED

    def _set(self, task: Task, status: Status) -> None:
        self.status[task.key] = status
        self.display.changed(task, status)

    def _start(self, waiting: Sequence[Task], slots: Sequence[Slot]) -> list[Task]:
        """Start the tasks that can be started; returns those that still wait.

        One with a launcher has the machine, and all of its devices, to itself.
        """
        left = []
        free = [slot for slot in slots if slot.task is None]
        if any(slot.task is not None and slot.task.launcher for slot in slots):
            free = []
        for task in waiting:
            states = {self.status[needed.key] for needed in task.needs.values()}
            if states & {Status.FAILED, Status.BLOCKED, Status.PAUSED}:
                self._set(task, Status.BLOCKED)
            elif free and states <= {Status.DONE} and task.launcher:
                if len(free) == len(slots):
                    for slot in slots:
                        slot.stop()  # with what it has on a GPU
                    free[0].start(task)
                    self._set(task, Status.RUNNING)
                else:
                    left.append(task)
                free = []  # for which the others wait, or it would wait for them for ever
            elif free and states <= {Status.DONE}:
                free.pop(0).start(task)
                self._set(task, Status.RUNNING)
            else:
                left.append(task)
        return left

    def _wait(self, slots: Sequence[Slot]) -> None:
        running = {slot.future: slot for slot in slots if slot.future is not None}
        ended, _ = wait(running, timeout=TICK, return_when=FIRST_COMPLETED)
        for future in ended:
            task, succeeded = running[future].finish()
            self._set(task, Status.DONE if succeeded else self._ended(task))
        self.display.tick()


def _gpu(number: int, gpus: int) -> str | None:
    """The GPU of a process, as CUDA_VISIBLE_DEVICES names it; None where there is no choice."""
    if gpus < 2:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return visible[number % gpus] if len(visible) == gpus else str(number % gpus)

"""Shows the progress of a program of tasks: which tasks run, and how long the rest will take."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..utils.visible import visible
from .schedule import Status
from .task import Task


@dataclass
class Progress:
    """A live table on a terminal; elsewhere a line for each task that ends."""

    console: Console
    out: Path
    jobs: int
    tasks: dict[str, Task] = field(default_factory=dict)
    status: dict[str, Status] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)
    """Seconds of the tasks that are done, also in earlier runs."""
    live: Live | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.live is not None:
            self.live.stop()

    def changed(self, task: Task, status: Status) -> None:
        """Take down that a task is at another status, and show it."""
        self.tasks[task.key], self.status[task.key] = task, status
        if status is Status.RUNNING:
            self.began[task.key] = time.monotonic()
        if status is Status.DONE and (result := task.result(self.out)):
            self.took[task.key] = result["wall"]
        if status in (Status.FAILED, Status.BLOCKED, Status.PAUSED):
            self._say(f"{task.label}: {status}{self._reason(task)}")
        elif status is Status.DONE and task.key in self.began and self.live is None:
            self._say(f"{task.label}: {self.took[task.key]:.0f} s, {self._summary()}")

    def tick(self) -> None:
        """Show how long the running tasks have been at it."""
        if self.live is not None:
            self.live.update(self._shown())

    def _say(self, line: str) -> None:
        self.console.print(visible(line), markup=False, highlight=False, soft_wrap=True)

    def _reason(self, task: Task) -> str:
        failure = task.failure(self.out)
        return f" ({failure['reason']})" if failure else ""

    def _shown(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for key, status in self.status.items():
            if status is Status.RUNNING:
                share, elapsed = self._share(key), time.monotonic() - self.began[key]
                bar: Any = "" if share is None else ProgressBar(total=1.0, completed=share, width=20)
                table.add_row(Text(visible(self.tasks[key].label)), bar, f"{elapsed:.0f} s")
        return Group(Text(self._summary()), table)

    def _summary(self) -> str:
        states = list(self.status.values())
        done, left = states.count(Status.DONE), self.left()
        parts = [f"{done} of {len(states)} tasks"]
        parts += [
            f"{states.count(status)} {status}"
            for status in (Status.FAILED, Status.BLOCKED, Status.PAUSED)
            if status in states
        ]
        return ", ".join(parts + ([f"about {_readable(left)} left"] if left else []))

    def _share(self, key: str) -> float | None:
        with suppress(OSError, ValueError):
            return float((self.out / key / "progress.json").read_text())
        return None

    def left(self) -> float | None:
        """Seconds until all is done, by what tasks of the same kind and method took; None where nothing is known."""
        seconds = 0.0
        for key, status in self.status.items():
            if status in (Status.WAITING, Status.RUNNING):
                expected = self._expected(key)
                if expected is None:
                    return None
                spent = time.monotonic() - self.began[key] if status is Status.RUNNING else 0.0
                seconds += max(0.0, expected - spent)
        return seconds / self.jobs

    def _expected(self, key: str) -> float | None:
        task, share = self.tasks[key], self._share(key)
        if share and key in self.began:
            return (time.monotonic() - self.began[key]) / share
        took = [
            (self.tasks[done], seconds) for done, seconds in self.took.items() if self.tasks[done].kind == task.kind
        ]
        same = [seconds for done, seconds in took if done.name == task.name] or [seconds for _, seconds in took]
        return mean(same) if same else None


def _readable(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1.5 else f"{minutes:.0f} min" if minutes >= 1.5 else f"{seconds:.0f} s"

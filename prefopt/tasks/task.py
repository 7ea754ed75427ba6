"""One step of work with a result on disk: what it depends on, and in which folder its result lies.

A task's folder is named by a hash of everything that its result depends on, the hashes of the tasks that it needs among
them. So a result that exists is the right one, whatever else a plan has changed, and a change repeats only the tasks
that it touches. What is hashed are plain values and, for the code that makes the result, a number: see `Task.formats`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ..utils import jsonl, secrets
from ..utils.fingerprint import fingerprint_of_values
from . import done
from .done import FAILED

ORDER_ONLY = {"reference"}
"""Roles of tasks that have to be done first and change nothing of the result."""
LAUNCH = "launch"
"""The input of a launcher: its command, and what its files hold. How many rows a step has depends on them."""
NOT_IN_A_NAME = re.compile(r"[^\w.-]")
FORMAT_1 = "0.1.0"


class Waiting(Exception):
    """A task cannot go on before something comes from outside, such as people's labels; the message says what."""


@dataclass(frozen=True)
class Task:
    """One step of a program, such as the training of a method with a seed.

    Args:
        kind: names the function that does it.
        name: of what the task is about, such as a method; "" where it is about nothing of a name.
        seed: None where the result serves all seeds.
        inputs: everything else that the result depends on, in plain values.
        needs: role -> the task whose result is read.
    """

    formats: ClassVar[Mapping[str, int]] = {}
    """Kind of task -> the number of what its code makes of the same inputs.

    Raise a kind's number whenever the code begins to make another result of the same inputs (other rows, other numbers,
    other files): results of that kind, and of all that needs them, are then made anew. Leave it for any other change.
    Format 1 is what prefopt 0.1.0 made, and is hashed under that name, so that folders of 0.1.0 are recognised.
    """
    functions: ClassVar[str] = ""
    """The module whose `run(task, out)` does the work and returns the result, in plain values."""
    trainings: ClassVar[frozenset[str]] = frozenset()
    """Kinds that train: a signal waits for a checkpoint, from which the next attempt goes on."""
    resumable: ClassVar[frozenset[str]] = frozenset()
    """Other kinds that go on from what a killed attempt left in their folder; the rest begin with an empty one."""
    edited: ClassVar[frozenset[str]] = frozenset()
    """Kinds whose files people change once they are done."""

    kind: str
    name: str
    seed: int | None
    inputs: Mapping[str, Any]
    needs: Mapping[str, Task] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """The path of the task's folder below that of the program."""
        parts = [NOT_IN_A_NAME.sub("_", self.name), "" if self.seed is None else str(self.seed), self.digest[:10]]
        return f"{self.kind}/{'-'.join(part for part in parts if part)}"

    @cached_property
    def digest(self) -> str:
        """A hash of all that the result depends on."""
        needs = {role: task.digest for role, task in self.needs.items() if role not in ORDER_ONLY}
        made_by = FORMAT_1 if self.formats[self.kind] == 1 else self.formats[self.kind]
        inputs = secrets.without_named(self.inputs)  # another token makes no other result
        return fingerprint_of_values([self.kind, self.seed, inputs, needs, made_by])

    @property
    def label(self) -> str:
        """The task for people: its kind, its name and its seed."""
        parts = [self.kind, self.name, "" if self.seed is None else f"seed {self.seed}"]
        return ", ".join(part for part in parts if part)

    @property
    def launcher(self) -> str | None:
        """The command that starts the processes in which the task is done together; None for the usual one."""
        return self.inputs[LAUNCH][0] if LAUNCH in self.inputs else None

    def folder(self, out: Path) -> Path:
        """Where the result lies below the folder of the run."""
        return out / self.key

    def result(self, out: Path) -> dict[str, Any] | None:
        """What the task's function returned, None if the task is not done.

        Raises:
            DamagedFile: it is not what was written.
        """
        return done.read(self.folder(out))

    def failure(self, out: Path) -> dict[str, Any] | None:
        """Why the task failed, None if it did not."""
        return next(jsonl.read(self.folder(out) / FAILED), None)

    def dependencies(self) -> list[Task]:
        """The tasks that it needs, and those that they need, each once and after those that it needs itself."""
        return in_order(self.needs.values())


def in_order(tasks: Iterable[Task]) -> list[Task]:
    """Each task once, after those that it needs."""
    by_key: dict[str, Task] = {}

    def put(task: Task) -> None:
        if task.key not in by_key:
            for needed in task.needs.values():
                put(needed)
            by_key[task.key] = task

    for task in tasks:
        put(task)
    return list(by_key.values())

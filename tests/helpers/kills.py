"""Runs that are killed, and run again by the same call until they are done: do they end as one that nobody disturbs?

    whole = undisturbed(run, folder)                     # how long it takes, what it does with files, what it ends in
    for kill in kills(whole, 3, signal.SIGKILL, rng):    # at random moments, of which a share is within saves
        killed(run, other, kill)
    finish(run, other)
    assert run.results(other) == whole.results

The process that calls this has paid for all imports, and has computed nothing: every attempt is a fork of it, in a
group of its own, whose writes in its folder are counted while they happen. So a kill is at the n-th of them, which is
where half a file may be left, or after a time, counted from when all processes listen to signals.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from prefopt.utils.signals import listening
from tests.helpers.processes import TIMEOUT_S

EVENTS = frozenset(("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate"))
"""What changes files, of what Python tells an audit hook (https://docs.python.org/3/library/audit_events.html)."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
"""Flags of an `open` that does so too."""
ENDED = 0
ENDS = "\nEnds: "
"""Before what a process says that is interrupted."""
MODULES = "log-modules.json"
"""What a run that has ended had imported."""


@dataclass(frozen=True)
class Run:
    """A run in a folder.

    Args:
        call: does it from where it stands in the folder; the same call begins it and goes on with it.
        results: the bytes that have to be the same, by name.
        ranks: processes of a run, each of which calls.
    """

    call: Callable[[Path], Any]
    results: Callable[[Path], dict[str, bytes]]
    ranks: int = 1


@dataclass(frozen=True)
class Whole:
    """A run that nobody disturbed: seconds, changes of files, results."""

    seconds: float
    operations: int
    results: dict[str, bytes]


@dataclass(frozen=True)
class Kill:
    """A signal at a moment: before the n-th change of a file, or after so many seconds.

    Args:
        rank: to whom; SIGKILL takes the others with it, as a launcher sees to.
    """

    signum: int
    operation: int | None = None
    seconds: float | None = None
    rank: int = 0


class Attempt:
    """The processes of one attempt at a run."""

    def __init__(self, run: Run, folder: Path, kill: Kill | None = None):
        self.folder, self.kill = folder, kill
        folder.mkdir(parents=True, exist_ok=True)
        self.counter, self.ready = (multiprocessing.get_context("fork").Value("q", 0) for _ in range(2))
        port = _free_port()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pids = [self._fork(run, rank, port) for rank in range(run.ranks)]
        while self.ready.value < run.ranks:
            time.sleep(0.001)
        self.began = time.monotonic()

    def _fork(self, run: Run, rank: int, port: int) -> int:
        if pid := os.fork():
            return pid
        status = 1
        try:
            os.setpgid(0, 0)
            self._into_log(rank)
            if run.ranks > 1:
                place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": run.ranks, "MASTER_PORT": port}
                os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
            with listening():  # as a command does
                self._count(rank)
                with self.ready.get_lock():
                    self.ready.value += 1
                run.call(self.folder)
                if rank == 0:
                    (self.folder / MODULES).write_text(json.dumps(sorted(sys.modules)))
                _leave(ENDED)  # while it listens: a signal that comes too late is none
        except SystemExit as ending:
            status = int(ending.code or 0)
            print(f"{ENDS}{ending}", file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            _leave(status)

    def _into_log(self, rank: int) -> None:
        with (self.folder / f"log-{rank}.txt").open("wb") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(stream), "w") for stream in (1, 2))

    def _count(self, rank: int) -> None:
        """Count file operations in the folder, of the processes that this one starts too, and kill at the wanted."""
        group, root, kill = os.getpid(), str(self.folder), self.kill

        def hook(event: str, details: tuple[Any, ...]) -> None:
            if (kill and kill.rank != rank) or not _changes(event, details) or not str(details[0]).startswith(root):
                return
            with self.counter.get_lock():
                self.counter.value += 1
                reached = kill is not None and kill.operation == self.counter.value
            if reached and kill is not None:
                (os.killpg if kill.signum == signal.SIGKILL else os.kill)(group, kill.signum)

        sys.addaudithook(hook)

    def end(self) -> list[int]:
        """The status of each process, once all have ended; what signals end has a negative one."""
        if self.kill is not None and self.kill.seconds is not None:
            threading.Timer(max(0.0, self.began + self.kill.seconds - time.monotonic()), self._strike).start()
        statuses: dict[int, int] = {}
        while len(statuses) < len(self.pids):
            for pid in self.pids:
                if pid not in statuses and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                    statuses[pid] = os.waitstatus_to_exitcode(ended[1])
            if -signal.SIGKILL in statuses.values() or time.monotonic() > self.began + TIMEOUT_S:
                self._send(signal.SIGKILL, [pid for pid in self.pids if pid not in statuses])
            time.sleep(0.002)
        self._send(signal.SIGKILL, self.pids)  # what they have started and not ended
        return [statuses[pid] for pid in self.pids]

    def _strike(self) -> None:
        assert self.kill is not None
        struck = [self.pids[self.kill.rank]]
        if self.kill.signum == signal.SIGKILL:
            return self._send(signal.SIGKILL, struck)
        with suppress(ProcessLookupError):
            os.kill(struck[0], self.kill.signum)

    @staticmethod
    def _send(signum: int, pids: Iterable[int]) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.killpg(pid, signum)


def _leave(status: int) -> NoReturn:
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _changes(event: str, details: tuple[Any, ...]) -> bool:
    """Whether an event changes a file, or a folder."""
    if event == "open":
        return bool((details[2] or 0) & WRITING)
    return event in EVENTS


def undisturbed(run: Run, folder: Path) -> Whole:
    """A run that goes through; what it says is in `log-0.txt` there. What it had to import is paid for after it."""
    attempt = Attempt(run, folder)
    _ended(attempt.end(), folder)
    whole = Whole(time.monotonic() - attempt.began, attempt.counter.value, run.results(folder))
    for name in json.loads((folder / MODULES).read_text()):
        if name not in sys.modules:
            with suppress(Exception):
                importlib.import_module(name)
    gc.freeze()  # trainers collect garbage when they begin, of which all imports are none
    return whole


def killed(run: Run, folder: Path, kill: Kill) -> list[int]:
    """The status of each process of a run that is killed, if it does not end before."""
    return Attempt(run, folder, kill).end()


def said(folder: Path) -> dict[str, str]:
    """What was said in the last attempt: how the first process ended, and every traceback."""
    logs = [path.read_text("utf-8", "replace") for path in sorted(folder.glob("log-[0-9].txt"))]
    tracebacks = [
        before[-300:] + mark + after[-2000:] for before, mark, after in (log.rpartition("Traceback") for log in logs)
    ]
    return {
        "said": logs[0].rpartition(ENDS)[2],
        "tracebacks": "".join(each for each in tracebacks if "Traceback" in each),
    }


def finish(run: Run, folder: Path) -> None:
    """The same call once more, to its end."""
    _ended(Attempt(run, folder).end(), folder)


def kills(whole: Whole, count: int, signum: int, rng: random.Random, run: Run, share: float = 1 / 3) -> list[Kill]:
    """So many moments of a run; a share of them within saves, at changes of files: at least one where there are two."""
    at_files = max(round(count * share), int(count > 1))
    return [
        Kill(signum, operation=rng.randint(1, whole.operations), rank=rng.randrange(run.ranks))
        if number < at_files
        else Kill(signum, seconds=rng.uniform(0.0, whole.seconds), rank=rng.randrange(run.ranks))
        for number in range(count)
    ]


def _ended(statuses: list[int], folder: Path) -> None:
    logs = "\n".join(path.read_text("utf-8", "replace")[-3000:] for path in sorted(folder.glob("log-[0-9].txt")))
    assert set(statuses) == {ENDED}, f"{folder}: {statuses}\n{logs}"


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])

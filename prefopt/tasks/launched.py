"""Does a task in several processes, which a launcher starts: torchrun, or accelerate with a config of its own.

The launcher runs this module once for each process. Each of them connects to the process that has called the launcher,
which tells them what to do, and of signals, and hears what came of it; whose connection ends, ends. So no rank outlives
the program, whatever ends the program or the launcher, and nothing of a task is on the disk.
"""

from __future__ import annotations

import logging
import os
import secrets as random_numbers
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from ..utils import secrets
from ..utils.peers import started
from ..utils.signals import Interrupted, listener, listening
from ..utils.visible import VisibleFormatter
from .task import Task

VISIBLE = "CUDA_VISIBLE_DEVICES"
WHERE = "PREFOPT_LAUNCHED_BY"
"""Tells the processes where to connect, and by which key."""
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
TICK = 0.2
"""Seconds between two looks at whether the launcher has ended, or a signal has come."""
LEFT = 10.0
"""Seconds that a launcher may go on when its processes have ended, or they when it has."""

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
        ValueError: there is no such program, the text is no command line, or what is started stands in a file that it
            does not name.
    """
    remedy = "write `torchrun --nproc_per_node 2`"
    try:
        words = [word.strip("\"'") for word in shlex.split(launcher, posix=os.name != "nt")]
    except ValueError as error:
        raise ValueError(f"launch: {launcher!r} is no command line ({error}): {remedy}") from None
    program = words[0] if words else ""
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    found = shutil.which(program, path=beside)
    if found is None:
        raise ValueError(f"launch: there is no program {program!r}: {remedy}, or its path")
    own = ("--config_file", "--num_processes", "--num-processes", "--config-file")
    if Path(found).stem == "accelerate" and not any(word.partition("=")[0] in own for word in words):
        raise ValueError(f"launch: {launcher!r} starts what a file elsewhere says: give its path, --config_file FILE")
    return [found, *words[1:]]


def files_of(launcher: str) -> list[str]:
    """The files that a launcher's command names: what they say changes what it starts."""
    words = [word.rpartition("=")[2] for word in command_of(launcher)[1:]]
    return [word for word in words if Path(word).is_file()]


# ---- the process that has called the launcher ------------------------------------------------------------------------


@dataclass
class Ranks:
    """The processes of a launcher, as far as they have connected."""

    connections: list[Connection] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    """Rank, reason, traceback, in the order in which they were told."""
    world: int = 0
    closed: bool = False

    def serve(self, server: Listener, message: Any) -> None:
        """Tell each process that connects what to do, until `closed`."""
        while not self.closed:
            with suppress(Exception):  # one that has another key, or is gone again
                connection = server.accept()
                if self.closed:
                    return connection.close()
                connection.send(message)
                self.connections.append(connection)
                threading.Thread(target=self._hear, args=(connection,), daemon=True).start()

    def _hear(self, connection: Connection) -> None:
        with suppress(EOFError, OSError):
            while True:
                kind, rank, world, *told = connection.recv()
                self.world = max(self.world, world)
                if kind == "failed":
                    self.failures.append((rank, *told))
                else:
                    self.results[rank] = told[0]
        with suppress(ValueError):
            self.connections.remove(connection)

    def tell(self, signum: int) -> None:
        for connection in list(self.connections):
            with suppress(OSError):
                connection.send(signum)

    def close(self) -> None:
        """End the processes that there still are, and take no others."""
        self.closed = True
        for connection in list(self.connections):
            connection.close()

    @property
    def done(self) -> bool:
        return 0 < self.world == len(self.results)


def run_launched(task: Task, out: Path, launcher: str, grace: float) -> dict[str, Any]:
    """The result of a task that the processes of a launcher do. A signal is passed on, and then ends this one too.

    Raises:
        LaunchError: a process failed; the message quotes it.
        Interrupted: a signal came.
    """
    key = random_numbers.token_bytes(16)
    with Listener(authkey=key, backlog=64) as server:
        ranks = Ranks()
        message = (sys.path, task, out, grace)
        threading.Thread(target=ranks.serve, args=(server, message), daemon=True).start()
        environment = {name: value for name, value in os.environ.items() if name != VISIBLE}
        environment |= {} if devices is None else {VISIBLE: devices}
        environment[WHERE] = f"{key.hex()} {server.address}"
        command = [*command_of(launcher), "-m", __name__]
        with _started(command, environment) as process:
            try:
                _wait(process, ranks)
            finally:
                ranks.close()
                with suppress(OSError):  # by which the thread that waits for processes is woken
                    Client(server.address, authkey=key).close()
    if ranks.done:
        return dict(ranks.results["0"])
    listener().check()
    if not ranks.failures:
        raise LaunchError(f"`{launcher}` ended with status {process.returncode}, and none of its processes said why")
    rank, reason, details = ranks.failures[0]  # others fail for want of it, later
    raise LaunchError(f"process {rank} of `{launcher}`: {reason}", details)


@contextmanager
def _started(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A launcher in a session of its own: what a terminal sends to all, its processes hear from us alone."""
    process = subprocess.Popen(command, env=dict(environment), start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(LEFT)
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], ranks: Ranks) -> None:
    """Until the launcher has ended, or all its processes have; a signal is told to these, who save what they can."""
    told, idle = False, time.monotonic()
    while process.poll() is None:
        if (signum := listener().signum) is not None and not told:
            told = True
            ranks.tell(signum)
            if not ranks.connections:  # they are not there yet, and have nothing to save
                return
        if ranks.connections or not (ranks.done or ranks.failures or told):
            idle = time.monotonic()
        elif time.monotonic() - idle > LEFT:
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(TICK)
    while ranks.connections and time.monotonic() - idle < LEFT:  # what they have sent is still being read
        time.sleep(TICK / 10)


# ---- a process that the launcher has started -------------------------------------------------------------------------


def main() -> None:
    """Do the task that this process is told to do, as one of several ranks."""
    rank = next((os.environ[name] for name in RANKS if name in os.environ), "0")
    world = max(1, started())
    key, _, address = os.environ.pop(WHERE).partition(" ")
    connection = Client(address, authkey=bytes.fromhex(key))
    path, task, out, grace = connection.recv()
    sys.path += [place for place in path if place not in sys.path]
    threading.Thread(target=_obey, args=(connection,), daemon=True).start()
    _set_up(rank)
    secrets.remember(task.inputs)
    try:
        with listening(grace) as signals, signals.at_once(task.kind not in task.trainings):
            result = import_module(task.functions).run(task, out)
            connection.send(("done", rank, world, result if rank == "0" else {}))
    except Interrupted:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's file raises
        details = secrets.without_secrets(traceback.format_exc())
        first = (f"{type(error).__name__}: {error}".strip().splitlines() or [""])[0]
        connection.send(("failed", rank, world, secrets.without_secrets(first), details))
        raise


def _obey(connection: Connection) -> None:
    """Pass signals on to this process, and end it when the one that has called the launcher is gone."""
    try:
        while True:
            signal.raise_signal(connection.recv()) if os.name == "nt" else os.kill(os.getpid(), connection.recv())
    except (EOFError, OSError):
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
    main()

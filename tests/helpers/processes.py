"""Programs of `tests.helpers.programs`, run in processes of their own, which a server forks that imports once."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
"""The folder that holds `tests`."""
TIMEOUT_S = 1200
"""Seconds after which a program is taken for hanging, on the slowest and busiest computer."""
PRELOADED = ["prefopt.compare.run.task_functions", "prefopt.training.trainers"]


@dataclass(frozen=True)
class Completed:
    """What the ranks of a program have said, one after the other."""

    stdout: str
    stderr: str


def completed(processes: int, module: str, argument: str, timeout_s: float = TIMEOUT_S) -> Completed:
    """What a program has said once it has ended: as `python -m module argument`, on so many ranks.

    Raises:
        AssertionError: it failed, or hung; with the end of what it said.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        shared = {**os.environ, "OMP_NUM_THREADS": "1", "PREFOPT_CACHE": f"{folder}/cache"}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())} if processes > 1 else {}
        ranks = [
            context.Process(target=_run, args=(module, argument, Path(folder), rank, shared | _place(rank, processes)))
            for rank in range(processes)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(timeout_s)
        codes = [process.exitcode for process in ranks]
        for process in ranks:
            process.kill()
        said = Completed(*("".join(_read(Path(folder), rank, kind) for rank in range(processes)) for kind in STREAMS))
    assert codes == [0] * processes, f"{codes}\n{said.stderr[-3000:]}"
    return said


def launch(processes: int, module: str, **args: Any) -> dict[str, Any]:
    """What a program prints as its result; it is given `args` as JSON."""
    done = completed(processes, module, json.dumps(args))
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert len(lines) == 1, done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("RESULT "))


STREAMS = ("stdout", "stderr")


def _read(folder: Path, rank: int, kind: str) -> str:
    return (folder / f"{kind}-{rank}").read_text()


def _place(rank: int, world: int) -> dict[str, str]:
    """What torchrun tells a rank of its place; one process alone has none."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    return {name: str(value) for name, value in names.items()} if world > 1 else {}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _run(module: str, argument: str, folder: Path, rank: int, environment: dict[str, str]) -> None:
    """In the process of a rank: run the program as if it had been begun by itself."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for number, kind in enumerate(STREAMS, 1):
        with (folder / f"{kind}-{rank}").open("wb") as file:
            os.dup2(file.fileno(), number)
    multiprocessing.process._parent_process = None  # type: ignore[attr-defined]  # it is nobody's worker
    sys.argv = [module, argument]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

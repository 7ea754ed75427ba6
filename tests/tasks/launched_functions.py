"""What the tasks of `test_launched.py` do: ranks get to know one another, and say so."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from prefopt.tasks import Task
from prefopt.utils.distributed import gathered, rank, world_size
from prefopt.utils.signals import listener


class Meeting(Task):
    """A task of no program."""

    formats = {"meeting": 1, "alone": 1}
    functions = __name__
    trainings = frozenset({"meeting"})


def run(task: Task, out: Path) -> dict[str, Any]:
    if task.kind == "alone":
        time.sleep(0.2)
        return {}
    from accelerate import PartialState

    PartialState(cpu=True)
    pids, inputs = gathered(os.getpid()), task.inputs
    if inputs.get("fails") == rank() and world_size() > 1:
        raise ValueError("no room\nfor this")
    if inputs.get("leaves") == rank():
        sys.exit("set DATA_DIR first")
    if inputs.get("waits"):
        if rank() == 0:
            (out / "pids").write_text(" ".join(map(str, pids)))
        while listener().signum is None:
            time.sleep(0.05)
        time.sleep(inputs.get("saves", 0.0))  # a checkpoint
        (out / f"ended-{rank()}").write_text(str(listener().signum))
        listener().check(not inputs.get("at the end"))
    return {"ranks": gathered(rank()), "pids": pids}

"""A task that a launcher's processes do together: one result, errors quoted, signals passed on, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from prefopt.compare.plan import PlanError, plan_from
from prefopt.rounds import rounds_plan_from
from prefopt.tasks import Schedule, Status, Task
from prefopt.tasks.launched import command_of
from tests.tasks.launched_functions import Meeting

TWO = "torchrun --nproc_per_node 2"
PROGRAM = """
import sys
from pathlib import Path
from prefopt.compare.run import interruptible
from prefopt.tasks import Schedule
from tests.tasks.launched_functions import Meeting
from tests.tasks.test_launched import TWO, Shown

if __name__ == "__main__":
    out = Path(sys.argv[1])
    task = Meeting("meeting", "", 0, {"launch": TWO, "waits": True})
    with interruptible(out, 20.0):
        Schedule(out, 1, Shown(), grace=20.0).run([task])
"""


class Shown:
    """Which tasks ran at the same time."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.together: list[set[str]] = []

    def changed(self, task: Task, status: Status) -> None:
        (self.running.add if status is Status.RUNNING else self.running.discard)(task.key)
        self.together.append(set(self.running))

    def tick(self) -> None:
        pass


def meeting(**inputs: Any) -> Task:
    return Meeting("meeting", "", 0, {"launch": TWO, **inputs})


def test_ranks_do_it_together_and_nothing_runs_beside_them(tmp_path: Path) -> None:
    together = meeting()
    alone = [Meeting("alone", str(number), 0, {}) for number in range(3)]
    shown = Shown()
    schedule = Schedule(tmp_path, 2, shown)
    schedule.run([alone[0], together, *alone[1:]])
    result = together.result(tmp_path)
    assert result is not None and result["ranks"] == [0, 1] and len(set(result["pids"])) == 2
    assert {together.key} in shown.together
    assert all(running == {together.key} for running in shown.together if together.key in running)
    assert all(task.result(tmp_path) is not None for task in alone)


def test_what_fails_in_one_process_is_quoted_with_its_traceback(tmp_path: Path) -> None:
    task = meeting(fails=1)
    Schedule(tmp_path, 1, Shown()).run([task])
    failure = task.failure(tmp_path)
    assert failure is not None
    assert failure["reason"] == f"LaunchError: process 1 of `{TWO}`: ValueError: no room"
    assert 'raise ValueError("no room\\nfor this")' in failure["details"]


def started(out: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    program = out / "program.py"
    program.write_text(PROGRAM)
    place = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([sys.executable, str(program), str(out)], env=os.environ | place)
    deadline = time.monotonic() + 120
    while not (out / "pids").is_file() or len((out / "pids").read_text().split()) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    return process, [int(pid) for pid in (out / "pids").read_text().split()]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_program_and_each_hears_of_its_end(tmp_path: Path, signum: signal.Signals) -> None:
    process, pids = started(tmp_path)
    assert not any(map(gone, pids))
    process.send_signal(signum)
    status = process.wait(60)
    assert status == (-signal.SIGKILL if signum == signal.SIGKILL else 143)
    deadline = time.monotonic() + 60
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ended = [(tmp_path / f"ended-{rank}").is_file() for rank in (0, 1)]
    assert ended == [signum == signal.SIGTERM] * 2


def test_a_launcher_that_is_none_is_refused_before_anything_runs() -> None:
    assert Path(command_of(TWO)[0]).name == "torchrun" and command_of(TWO)[1:] == ["--nproc_per_node", "2"]
    with pytest.raises(ValueError, match="launch: there is no program 'torchrum': write `torchrun --nproc_per_node 2`"):
        command_of("torchrum --nproc_per_node 2")
    with pytest.raises(ValueError, match="is no command line"):
        command_of("torchrun 'open")
    plan = {"policy": "testbed", "data": "testbed", "sft": {}, "methods": {"dpo": {}}}
    with pytest.raises(PlanError, match="launch: nothing called 'dpoo' is trained; did you mean dpo"):
        plan_from({**plan, "launch": {"dpoo": TWO}})
    with pytest.raises(PlanError, match="launch: a budget is counted by one process"):
        plan_from({**plan, "launch": TWO, "budget": {"flops": 1e12}})
    rounds = {"policy": "testbed", "data": "testbed", "sft": {}, "round": {}}
    with pytest.raises(PlanError, match="launch: nothing called 'sample' is trained"):
        rounds_plan_from({**rounds, "launch": {"sample": TWO}})

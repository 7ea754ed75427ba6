"""A task that a launcher's processes do together: one result, errors quoted, signals passed on, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from prefopt.compare.plan import PlanError, plan_from
from prefopt.compare.run import Tasks
from prefopt.rounds import rounds_plan_from
from prefopt.tasks import Schedule, Status, Task
from prefopt.tasks.launched import command_of
from tests.tasks.launched_functions import Meeting

TWO = "torchrun --nproc_per_node 2"
ONE = "accelerate launch --num_processes 1 --cpu"
PROGRAM = """
import json
import sys
from pathlib import Path
from prefopt.compare.run import interruptible
from prefopt.tasks import Schedule
from tests.tasks.launched_functions import Meeting
from tests.tasks.test_launched import Shown

if __name__ == "__main__":
    out = Path(sys.argv[1])
    task = Meeting("meeting", "", 0, {"launch": [sys.argv[2]], **json.loads(sys.argv[3])})
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
    return Meeting("meeting", "", 0, {"launch": [TWO], **inputs})


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


@pytest.mark.parametrize("launcher", [TWO, ONE])
def test_a_program_that_a_file_ends_says_why(launcher: str, tmp_path: Path) -> None:
    task = Meeting("meeting", "", 0, {"launch": [launcher], "leaves": 0})
    Schedule(tmp_path, 1, Shown()).run([task])
    failure = task.failure(tmp_path)
    assert failure is not None
    assert failure["reason"] == f"LaunchError: process 0 of `{launcher}`: SystemExit: set DATA_DIR first"


def started(out: Path, launcher: str = TWO, **inputs: Any) -> tuple[subprocess.Popen[bytes], list[int]]:
    program = out / "program.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    given = json.dumps({"waits": True, **inputs})
    process = subprocess.Popen([sys.executable, str(program), str(out), launcher, given], env=environment)
    deadline = time.monotonic() + 120
    while not (out / "pids").is_file() or not (out / "pids").read_text():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    return process, [int(pid) for pid in (out / "pids").read_text().split()]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until(true: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def launcher_of(rank: int) -> int:
    return int(Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[1])


linux = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")


@linux
@pytest.mark.parametrize("launcher", [TWO, ONE])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_program_and_each_hears_of_its_end(
    launcher: str, tmp_path: Path, signum: signal.Signals
) -> None:
    """ONE does not pass signals on itself."""
    process, pids = started(tmp_path, launcher)
    assert not any(map(gone, pids))
    process.send_signal(signum)
    assert process.wait(60) == (-signal.SIGKILL if signum == signal.SIGKILL else 143)
    wait_until(lambda: all(map(gone, pids)))
    ended = [(tmp_path / f"ended-{rank}").is_file() for rank in range(len(pids))]
    assert ended == [signum == signal.SIGTERM] * len(pids)


@linux
def test_ranks_end_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    process, pids = started(tmp_path)
    os.kill(launcher_of(pids[0]), signal.SIGKILL)
    wait_until(lambda: all(map(gone, pids)))
    assert process.wait(60) == 0  # the program goes on, and has the failure
    (failed,) = tmp_path.glob("meeting/*/failed.json")
    assert f"`{TWO}` ended with status -9" in json.loads(failed.read_text())["reason"]


@linux
def test_what_is_done_when_a_signal_comes_is_kept(tmp_path: Path) -> None:
    """After its last step a training has only its model to save, from which nothing could go on."""
    process, _ = started(tmp_path, **{"at the end": True, "saves": 2.0})
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    (done,) = tmp_path.glob("meeting/*/done.json")
    assert json.loads(done.read_text())["ranks"] == [0, 1] and len(list(tmp_path.glob("ended-*"))) == 2


def test_what_the_files_of_a_command_say_is_part_of_a_task(tmp_path: Path) -> None:
    config = tmp_path / "two.yaml"
    plan = {"policy": "testbed", "data": "testbed", "sft": {}, "methods": {"dpo": {}}}
    keys = set()
    for processes in (2, 16):
        config.write_text(f"num_processes: {processes}")
        tasks = Tasks(plan_from({**plan, "launch": {"sft": f"accelerate launch --config_file {config}"}}))
        keys.add(tasks.start(0)["start"].key)
    keys.add(Tasks(plan_from(plan)).start(0)["start"].key)
    assert len(keys) == 3


def test_a_launcher_that_is_none_is_refused_before_anything_runs() -> None:
    assert Path(command_of(TWO)[0]).name == "torchrun" and command_of(TWO)[1:] == ["--nproc_per_node", "2"]
    with pytest.raises(ValueError, match="launch: there is no program 'torchrum': write `torchrun --nproc_per_node 2`"):
        command_of("torchrum --nproc_per_node 2")
    with pytest.raises(ValueError, match="is no command line"):
        command_of("torchrun 'open")
    with pytest.raises(ValueError, match="starts what a file elsewhere says: give its path, --config_file FILE"):
        command_of("accelerate launch")
    plan = {"policy": "testbed", "data": "testbed", "sft": {}, "methods": {"dpo": {}}}
    with pytest.raises(PlanError, match="launch: nothing called 'reward' is trained"):
        plan_from({**plan, "launch": {"reward": TWO}})
    with pytest.raises(PlanError, match="write a command, or `name of a stage: command`, in one line each"):
        plan_from({**plan, "launch": {"sft": TWO.split()}})
    with pytest.raises(PlanError, match="launch: nothing called 'dpoo' is trained; did you mean dpo"):
        plan_from({**plan, "launch": {"dpoo": TWO}})
    with pytest.raises(PlanError, match="launch: a budget is counted by one process"):
        plan_from({**plan, "launch": TWO, "budget": {"flops": 1e12}})
    rounds = {"policy": "testbed", "data": "testbed", "sft": {}, "round": {}}
    with pytest.raises(PlanError, match="launch: nothing called 'sample' is trained"):
        rounds_plan_from({**rounds, "launch": {"sample": TWO}})

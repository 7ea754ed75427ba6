"""The disk fails at every write, rename and fsync of prefopt's writers: a file with a name is whole, or is absent."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from prefopt.candidates.candidate import Candidate
from prefopt.candidates.pool import Pool
from prefopt.candidates.selection import write_rows
from prefopt.compare.plan.imported import Imported
from prefopt.compare.plan.plan import plan_from
from prefopt.compare.report.markdown import write_markdown
from prefopt.compare.run.comparison import _write_plan
from prefopt.compare.run.tasks import ComparisonTask as Task
from prefopt.tasks.worker import fail
from prefopt.utils import jsonl
from tests.helpers.comparison_findings import example_findings
from tests.helpers.faults import ERRORS, Disk, failing, files_of

Writer = Callable[[Path, int], object]
"""Writes into a folder, at its first call with 0 and at its second with 1: it has something to lose by then."""


def pool(folder: Path, time: int) -> None:
    prompt = ({"role": "user", "content": "问"},)
    made = [
        Candidate(0, time, k, prompt, f"答{k}", "stop", policy="p", temperature=1.0, seed=0) for k in range(2 + time)
    ]
    Pool(folder).append(made)


def rewards(folder: Path, time: int) -> None:
    jsonl.append(folder / "scores.jsonl", [{"k": k, "score": 0.5} for k in range(time + 2)])


def plan(folder: Path, time: int) -> None:
    rows = {"train": "a", "test": "b"}
    _write_plan(plan_from({"policy": "owner/p", "data": rows, "methods": ["dpo"], "title": f"{time}"}), folder)


def report(folder: Path, time: int) -> None:
    findings = replace(example_findings(), title=f"Report {time}")
    findings.write(folder)
    write_markdown(findings, folder, {})


def failure(folder: Path, time: int) -> None:
    fail(Task("train", "m", 0, {}), folder, f"reason {time}")


def kept_imports(folder: Path, time: int) -> None:
    Imported({"m": {"source": str(time)}}).write(folder)


WRITERS: dict[str, Writer] = {
    "pool": pool,
    "scores": rewards,
    "rows": lambda folder, time: write_rows(folder / "rows.jsonl", [{"prompt": [], "chosen": str(time)}]),
    "plan": plan,
    "report": report,
    "failure": failure,
    "imports": kept_imports,
}


def outcome(write: Writer, folder: Path, disk: Disk) -> OSError | None:
    with failing(disk):
        try:
            write(folder, 1)
        except OSError as error:
            return error
    return None


@pytest.mark.parametrize("name", WRITERS)
def test_whole_or_absent_at_every_fault(name: str, tmp_path: Path) -> None:
    """What has a name is as it was or is to be; the error names a file; a second try ends as if undisturbed."""
    write, there, whole = WRITERS[name], tmp_path / "there", tmp_path / "whole"
    there.mkdir()
    write(there, 0)
    before = files_of(there)
    shutil.copytree(there, whole)
    counted = Disk()
    assert outcome(write, whole, counted) is None
    after = files_of(whole)
    assert before and before != after and {"write", "fsync"} <= set(counted.done)
    for at in range(len(counted.done)):
        for error in ERRORS:
            folder = tmp_path / f"{at}-{error}"
            shutil.copytree(there, folder)
            raised = outcome(write, folder, Disk(at, error, lasting=True))
            assert raised is not None and raised.errno == error, (at, counted.done[at])
            assert str(folder) in str(raised.filename)
            for path, content in files_of(folder).items():
                assert content in (before.get(path), after.get(path)), (at, counted.done[at], path)
            assert before.keys() <= files_of(folder).keys()
            write(folder, 1)
            assert files_of(folder) == after
            assert not [path for path in folder.rglob("*") if ".staging" in path.name]


def test_the_helper_fails_the_operation_that_it_is_told(tmp_path: Path) -> None:
    disk = Disk(at=1, error=errno.EIO)
    with failing(disk), pytest.raises(OSError, match="Input/output error"), (tmp_path / "x").open("wb") as file:
        os.write(file.fileno(), b"one")
        os.write(file.fileno(), b"second")
    assert disk.done == ["write", "write"] and (tmp_path / "x").read_bytes() == b"onesec"

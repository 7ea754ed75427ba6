"""What a task says that failed, also where there is no room to write it down."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from prefopt.tasks import worker
from prefopt.tasks.task import Task
from prefopt.utils import files


class RowsTask(Task):
    formats = {"rows": 2}


def task() -> Task:
    return RowsTask(kind="rows", name="", seed=0, inputs={})


def test_a_reason_is_written_down(tmp_path: Path) -> None:
    assert worker.fail(task(), tmp_path, "ValueError: 没有行\nmore") is False
    failure = task().failure(tmp_path)
    assert failure is not None and failure["reason"] == "ValueError: 没有行"


def test_a_reason_that_cannot_be_written_down_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: Any, **__: Any) -> None:
        raise files.explained(OSError(errno.ENOSPC, "No space left on device"), path)

    monkeypatch.setattr(files, "replace", full)
    with pytest.raises(OSError, match=r"rows, seed 0: OSError: /data/rows.arrow; and this.*failed.json"):
        worker.fail(task(), tmp_path, "OSError: /data/rows.arrow")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="File exists: nothing was written.*mend that and run it again: .*file/folder'"):
        files.require_folder(tmp_path / "file" / "folder")


def test_an_error_of_a_write_names_the_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: Any) -> None:
        place = task().folder(tmp_path)
        place.mkdir(parents=True)
        with (place / "rows.arrow").open("wb") as file:
            file.write(b"half")
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(worker, "_run", write)
    assert worker.run_task(task(), tmp_path, 1.0) is False
    failure = task().failure(tmp_path)
    assert failure is not None and failure["reason"].endswith(f"error: {task().folder(tmp_path) / 'rows.arrow'}")

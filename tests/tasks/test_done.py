"""A task that is done leaves hashes of its files: what is not as it was left is told by name, never read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefopt.tasks import done
from prefopt.utils.jsonl import DamagedFile, replace

RESULT = {"score": 0.25, "名": "答", "packages": {"b": "1", "a": "2"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "train" / "dpo-0"
    (place / "model").mkdir(parents=True)
    (place / "model/model.safetensors").write_bytes(b"weights" * 100)
    (place / "responses.parquet").write_bytes(b"table" * 100)
    (place / "run/checkpoint-4").mkdir(parents=True)
    (place / "run/checkpoint-4/optimizer.pt").write_bytes(b"to be removed")
    (place / done.LOG).write_text("said")
    done.write(place, RESULT)
    return place


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:10])


def test_the_result_is_what_was_written_and_checkpoints_and_logs_are_no_part_of_it(folder: Path) -> None:
    shutil.rmtree(folder / "run/checkpoint-4")
    (folder / done.LOG).write_text("said more")
    done.check(folder)
    assert done.read(folder) == RESULT
    assert done.read(folder.parent) is None and done.check(folder.parent) is None


@pytest.mark.parametrize("act", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", ["model/model.safetensors", "responses.parquet"])
def test_damage_is_told_by_name(act: Callable[[Path], Any], name: str, folder: Path) -> None:
    act(folder / name)
    with pytest.raises(
        DamagedFile,
        match=rf"{folder / name} is (missing|not what).*{folder / done.DONE}.*or delete {folder}, which is then",
    ):
        done.check(folder)


def test_of_a_large_file_the_size_alone_is_looked_at_until_it_is_used(folder: Path) -> None:
    flip(folder / "model/model.safetensors")
    done.check(folder, below=700)
    with pytest.raises(DamagedFile, match="model.safetensors"):
        done.check(folder, below=701)
    cut(folder / "model/model.safetensors")
    with pytest.raises(DamagedFile, match="model.safetensors"):
        done.check(folder, below=0)


def test_a_changed_number_of_the_result_is_damage(folder: Path) -> None:
    path = folder / done.DONE
    path.write_text(path.read_text().replace("0.25", "0.75"))
    for act in (done.read, done.check):
        with pytest.raises(DamagedFile, match=f"{path} is damaged"):
            act(folder)


def test_what_earlier_versions_left_is_read(tmp_path: Path) -> None:
    replace(tmp_path / done.DONE, [RESULT])
    assert done.read(tmp_path) == RESULT
    done.check(tmp_path)


def test_files_that_people_change_are_not_compared(folder: Path) -> None:
    done.write(folder, RESULT, edited=True)
    flip(folder / "responses.parquet")
    done.check(folder)
    assert "files" in json.loads((folder / done.DONE).read_text())

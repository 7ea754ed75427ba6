"""A file is what it was or what it is to be, whatever happens while it is written."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefopt.utils import files


def parts() -> Iterator[bytes]:
    yield b"one "
    yield b"two"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"one two", b"one two"),
        ("一二", "一二".encode()),
        (parts(), b"one two"),
        ([], b""),
        (lambda staged: staged.write_bytes(b"one two"), b"one two"),
    ],
    ids=["bytes", "text", "parts", "nothing", "function"],
)
def test_every_kind_of_content_is_written(content: files.Content, expected: bytes, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    files.replace(path, content)
    assert path.read_bytes() == expected
    assert [found.name for found in path.parent.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("most", [1, 100])
def test_all_is_on_the_disk_before_it_has_its_name(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content, then name, then the folder that holds the name; also where the system takes a byte at a time."""
    path, calls = tmp_path / "a.txt", list[str]()
    write, replace, fsync = os.write, os.replace, os.fsync

    def writing(descriptor: int, data: memoryview) -> int:
        calls.append("write")
        return write(descriptor, data[:most])

    def replacing(*names: Path) -> None:
        calls.append("replace")
        replace(*names)

    def syncing(descriptor: int) -> None:
        calls.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        for name, counted in (("write", writing), ("replace", replacing), ("fsync", syncing)):
            patch.setattr(os, name, counted)
        files.replace(path, "abc")
    assert path.read_text() == "abc"
    assert calls == ["write"] * (3 if most == 1 else 1) + ["sync file", "replace", "sync folder"]


def full_disk(*_: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_failure_leaves_what_was_there(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full_disk)
        with pytest.raises(
            OSError, match=r"No space left on device: nothing was written.*intact; make room.*a\.txt"
        ) as error:
            files.replace(path, "after")
    assert error.value.errno == errno.ENOSPC
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_content_that_breaks_off_is_not_written(tmp_path: Path) -> None:
    def breaking() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("no more")

    for content in (breaking(), lambda staged: [staged.write_bytes(b"half"), next(breaking()), 1 / 0]):
        with pytest.raises((ValueError, ZeroDivisionError)):
            files.replace(tmp_path / "a.txt", content)
    assert not list(tmp_path.iterdir())


def test_room_is_asked_for_only_where_it_is_missing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"what was there is intact; mend that and run it again.*file/a\.txt"):
        files.replace(tmp_path / "file" / "a.txt", "x")


def test_what_a_kill_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / f"a.txt{files.STAGING}").write_bytes(b"a longer half of something")
    files.replace(tmp_path / "a.txt", "short")
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "short"

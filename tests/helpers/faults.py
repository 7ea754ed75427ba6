"""A disk that fails at a chosen moment: the n-th write, rename or fsync of what runs inside."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

OPERATIONS = ("write", "replace", "rename", "fsync", "ftruncate", "mkdir")
ERRORS = (errno.ENOSPC, errno.EIO)


@dataclass
class Disk:
    """What was done to the disk, and what fails of it.

    Args:
        at: the number of the operation that fails, counted from 0; None for none.
        error: with which errno. Of a write, half is done before: the disk was full in its midst.
        lasting: whether all later writes fail too, as on a full disk, which no attempt to mend gets around.
    """

    at: int | None = None
    error: int = errno.ENOSPC
    lasting: bool = False
    done: list[str] = field(default_factory=list)

    def fails(self, operation: str) -> bool:
        number = len(self.done)
        self.done.append(operation)
        if self.at is None or number < self.at:
            return False
        return number == self.at or (self.lasting and operation == "write")


@contextmanager
def failing(disk: Disk) -> Iterator[Disk]:
    """Count the operations of `os`, and let those fail that the disk says."""

    def wrapped(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if not disk.fails(name):
                return own(*arguments, **more)
            if name == "write" and len(arguments[1]) > 1:
                own(arguments[0], arguments[1][: len(arguments[1]) // 2])
            raise OSError(disk.error, os.strerror(disk.error))

        return call

    patches = [mock.patch.object(os, name, wrapped(name, getattr(os, name))) for name in OPERATIONS]
    for patch in patches:
        patch.start()
    try:
        yield disk
    finally:
        for patch in patches:
            patch.stop()


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder that has a name of its own, which is none of a file that is being written."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".staging" not in path.name
    }

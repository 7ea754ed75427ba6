"""A disk that fails at a chosen change of a file, whichever library makes it: Python, torch, safetensors, Arrow.

A library in C is put before the system's own (`failing_disk.c`), which takes a compiler and Linux; `faults.py` needs
neither, and sees what Python's `os` does alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_suffix(".c")
PRELOADED = "PREFOPT_FAILING_DISK"
COMPILER = shutil.which("cc") or shutil.which("gcc")
POSSIBLE = COMPILER is not None and sys.platform == "linux"

Operation = tuple[str, str]
"""What is done, as "write", and to which file."""


@dataclass(frozen=True)
class Fault:
    """What fails: the change with the number `at`, counted from 0; None for none.

    Args:
        kind: "ENOSPC", after which all later writes fail too, as on a full disk; "EIO"; or "short", where a write says
            that it wrote half, which is no error.
    """

    kind: str
    at: int | None = None


def compiled(folder: Path) -> Path:
    """The library, made in a folder."""
    library = folder / "failing_disk.so"
    command = [str(COMPILER), "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


def preloaded(folder: Path) -> dict[str, str]:
    """The environment of a program in which `failing` works."""
    library = str(compiled(folder))
    return {**os.environ, "LD_PRELOAD": library, PRELOADED: library}


def restart_preloaded(folder: Path, module: str, words: Sequence[str]) -> None:
    """Begin this program again in such an environment, unless it has it."""
    if PRELOADED not in os.environ:
        folder.mkdir(parents=True, exist_ok=True)
        os.execve(sys.executable, [sys.executable, "-m", module, *words], preloaded(folder))


def arm(folder: Path, fault: Fault, log: int) -> None:
    """Let a change below a folder fail, in this process and in those that it forks; write all of them to `log`."""
    number = -1 if fault.at is None else fault.at
    code = 0 if fault.kind == "short" else getattr(errno, fault.kind)
    short, lasting = fault.kind == "short", fault.kind == "ENOSPC"
    _library().failing_disk(str(folder).encode(), ctypes.c_long(number), code, int(short), int(lasting), log)


@contextmanager
def recorded(folder: Path, fault: Fault = Fault("short")) -> Iterator[list[Operation]]:
    """The changes below a folder while the block runs, which are known at its end; one of them may fail."""
    operations: list[Operation] = []
    descriptor = os.memfd_create("operations")
    arm(folder, fault, descriptor)
    try:
        yield operations
    finally:
        _library().sound_disk()
        os.lseek(descriptor, 0, os.SEEK_SET)
        with os.fdopen(descriptor, encoding="utf-8") as file:
            operations += [(word, path) for word, _, path in (line.rstrip("\n").partition(" ") for line in file)]


def _library() -> Any:
    return ctypes.CDLL(os.environ[PRELOADED])

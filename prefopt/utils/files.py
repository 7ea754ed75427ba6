"""Files that are written whole or not at all, whatever kills the program, and that are on the disk when it goes on.

Everything that prefopt keeps and reads back later is written here: what a kill or a full disk may leave is the file as
it was or the file as it is to be, never half of one.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

STAGING = ".staging"
"""What stands after a file's name until the file is whole. A kill may leave one; the next write replaces it."""

Content = bytes | str | Iterable[bytes] | Callable[[Path], object]


def replace(path: Path, content: Content, *, staging: str = STAGING) -> None:
    """Write a file whole or not at all: killed at any moment, `path` is what it was or what it is to be.

    The content goes to a file beside `path`, that file to the disk, and only then to its name; folders that are missing
    are made.

    Args:
        content: bytes, or parts of them, which are written as they come; text, written as UTF-8; or a function that
            writes a file at the path that it is given.
        staging: what stands after the name of the file that is written first. Programs that may write the same file at
            the same time need one each.

    Raises:
        OSError: the file could not be written, as on a full disk; the message names it. What it held is intact.
    """
    staged = path.with_name(path.name + staging)
    content = content.encode("utf-8") if isinstance(content, str) else content
    try:
        make_folder(path.parent)
        _write_staged(staged, content)
        os.replace(staged, path)
        flush(path.parent)  # or a power cut could forget the file's name
    except OSError as error:
        raise explained(error, path, len(content) if isinstance(content, bytes) else None) from error
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)


def _write_staged(staged: Path, content: bytes | Iterable[bytes] | Callable[[Path], object]) -> None:
    if callable(content):
        content(staged)
        return flush(staged)
    with staged.open("wb", buffering=0) as file:
        for part in [content] if isinstance(content, bytes) else content:
            write(file.fileno(), part)
        os.fsync(file.fileno())


def write(descriptor: int, data: bytes) -> None:
    """Write all of `data`, however little the system takes at a time."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def flush(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk.

    Raises:
        OSError: it could not be; the error has its name, which that of `os.fsync` lacks.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def path_of_error(error: BaseException, folder: Path) -> Path:
    """The file that an error is of; the folder where that is not known.

    Errors of writes, and those of torch, tokenizers and safetensors, do not name it: it is what the innermost function
    that knows of a path in the folder has opened, or was about to write.
    """
    if getattr(error, "filename", None):
        return Path(str(error.filename))  # type: ignore[attr-defined]
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        values = list(frame.f_locals.values())
        opened = [value.name for value in values if isinstance(value, io.IOBase) and hasattr(value, "name")]
        paths = [Path(value) for value in (*values, *opened) if isinstance(value, str | Path)]
        inside = [path for path in paths if path != folder and path.is_relative_to(folder) and not path.is_dir()]
        if inside:
            return inside[-1]
    return folder


def free(path: Path) -> int:
    """Bytes that are free where `path` is or is to be."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, their names on the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        flush(folder.parent)


def require_folder(folder: Path) -> None:
    """Create a folder, where it is missing, for who writes into it later.

    Raises:
        OSError: it could not be made, as on a full disk; the message names it.
    """
    try:
        make_folder(folder)
    except OSError as error:
        raise explained(error, folder) from error


def explained(error: OSError, path: Path, needed: int | None = None) -> OSError:
    """The same error about `path`, saying that nothing is lost and what to do.

    Args:
        needed: how many bytes were to be written, where that is known.
    """
    remedy = "mend that and run it again"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        wanted = "" if needed is None else f"{needed:,} bytes are needed, "
        room = f" ({wanted}{free(path):,} are free)"
        remedy = f"make room{room} and run it again"
    reason = f"{error.strerror or error}: nothing was written and what was there is intact; {remedy}"
    return OSError(error.errno, reason, str(path))

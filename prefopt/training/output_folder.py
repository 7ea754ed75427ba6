"""A folder belongs to one run, and one program at a time writes in it: what lies there, moving it aside, the lock."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..utils.distributed import on_first
from ..utils.files import flush, make_folder
from . import checkpoint

logger = logging.getLogger(__name__)

LOCK = ".lock"
FINAL = ("config.json", "adapter_config.json", "critic/config.json", "critic/adapter_config.json")
"""Files that a model has once it was saved as a whole."""
AUTO = "auto"
"""Go on where there is something to go on with, and begin where there is nothing."""


@dataclass
class _Held:
    """A lock of this program, and how often it was asked for."""

    lock: FileLock
    count: int = 1


_held: dict[Path, _Held] = {}
"""The folders that this program has locked."""


def contents(folder: Path) -> str:
    """What of a run lies in a folder, in words; empty if nothing does."""
    found = [path.name for path in checkpoint.numbered(folder)]
    if len(found) > 2:
        found = [f"{found[0]} to {found[-1]} ({len(found)} checkpoints)"]
    found += [checkpoint.RUN] if (folder / checkpoint.RUN).is_file() else []
    return ", ".join([*found, *(f"a final model ({name})" for name in FINAL if (folder / name).is_file())])


def claim(folder: Path, wanted: str | bool | None, overwrite: bool) -> str | bool | None:
    """Make sure that a run may write in a folder, and move an old one aside if that is asked for.

    Args:
        wanted: what to go on from: a checkpoint, `True` for the newest one here, "auto", or nothing.
        overwrite: begin anew whatever lies here.

    Returns:
        what to go on from, without "auto".

    Raises:
        ValueError: the folder holds a run, and `wanted` does not go on with it; the message says what lies there.
    """
    if overwrite and wanted:
        raise ValueError(
            f"overwrite_output_dir begins anew and resume_from_checkpoint={wanted!r} goes on: choose one of them"
        )
    there = contents(folder)
    if wanted == AUTO:
        begun = bool(checkpoint.numbered(folder)) or (folder / checkpoint.RUN).is_file()
        wanted = True if begun else None
    here = wanted is True or (isinstance(wanted, str) and Path(wanted).resolve().parent == folder.resolve())
    if not there or here:
        return wanted
    if not overwrite:
        raise ValueError(
            f"{folder} holds a run already: pass resume_from_checkpoint=True to go on with it, "
            "overwrite_output_dir=True to move it aside whole and begin anew, or another output_dir. What is there: "
            f"{there}"
        )
    logger.warning("%s held another run (%s), which is now in %s", folder, there, move_aside(folder))
    return wanted


def move_aside(folder: Path) -> Path:
    """Rename a folder to the first free of folder.1, folder.2, ..., and make an empty one in its place."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    held = _held.get(folder.resolve())
    os.replace(folder, aside)
    flush(folder.parent)
    make_folder(folder)
    if held is not None:  # the locked file went with the folder
        held.lock.release()
        (aside / LOCK).unlink(missing_ok=True)
        held.lock = FileLock(folder.resolve() / LOCK)
        held.lock.acquire(timeout=0)
    return aside


def check_apart(folder: Path, sources: Mapping[str, Any]) -> None:
    """Refuse to write a run over a model that it is made of.

    Args:
        folder: where the run is written.
        sources: models by the argument that gives them: a path, or a model that was loaded from one.

    Raises:
        ValueError: one of them lies there.
    """
    for name, source in sources.items():
        place = (
            source if isinstance(source, str | Path) else getattr(getattr(source, "config", None), "name_or_path", "")
        )
        if place and Path(place).expanduser().is_dir() and Path(place).expanduser().resolve() == folder.resolve():
            raise ValueError(
                f"output_dir={str(folder)!r} is the folder of {name}, which would be overwritten: choose another "
                "output_dir"
            )


@contextmanager
def locked(folder: Path, take: Callable[[Callable[[], None]], None] = on_first) -> Iterator[None]:
    """Keep other programs from writing a run in a folder.

    The lock goes with the program that holds it, however that ends. Whoever holds it may ask for it again.

    Args:
        take: calls what it is given, as `on_first` does in the first process for all of them.

    Raises:
        ValueError: another program holds it.
    """
    path = folder.resolve()
    take(lambda: _take(path))
    try:
        yield
    finally:
        _release(path)


def _take(path: Path) -> None:
    if path in _held:
        _held[path].count += 1
        return
    make_folder(path)
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"another program is writing a run in {path}: wait for it or end it, or choose another output_dir"
        ) from error
    except OSError as error:
        logger.warning("cannot lock %s (%s): make sure that no other program writes there", path, error)
    _held[path] = _Held(lock)


def _release(path: Path) -> None:
    held = _held.get(path)
    if held is None:
        return  # the first process has it
    held.count -= 1
    if not held.count:
        del _held[path]
        (path / LOCK).unlink(missing_ok=True)  # while it is held: whoever has opened it sees that it is gone
        held.lock.release()

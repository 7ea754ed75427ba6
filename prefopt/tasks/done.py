"""What a task leaves when it is done: its result, and what its files held, by which damage is noticed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..utils import jsonl
from ..utils.hashing import Damaged, hash_of_file, seal, unseal

DONE, FAILED = "done.json", "failed.json"
LOG, SPENT = "log.txt", "spent.json"
CHECKPOINTS = "run/checkpoint-*"
"""What a training goes on from, which stays until the task is done."""
FILES = "files"
OWN = frozenset((DONE, FAILED, LOG, SPENT, ".lock"))
"""What is no part of a result."""
SMALL = 1 << 26
"""Bytes of a file that is read whenever a program begins; larger ones are when they are used."""


def write(folder: Path, result: Mapping[str, Any], edited: bool = False) -> None:
    """Write down that the task of a folder is done.

    Args:
        edited: people change its files afterwards.
    """
    files = {} if edited else {path.relative_to(folder).as_posix(): _known(path) for path in _files(folder)}
    record = json.loads(json.dumps({**result, FILES: files}))
    jsonl.replace(folder / DONE, [seal(record)])


def read(folder: Path) -> dict[str, Any] | None:
    """The result of the task of a folder, None if it is not done.

    Raises:
        DamagedFile: it is not what was written.
    """
    record = _record(folder)
    return None if record is None else {name: value for name, value in record.items() if name != FILES}


def check(folder: Path, below: float = math.inf) -> None:
    """Make sure that the files of a task that is done are those that it left; what earlier versions did is not known.

    Args:
        below: read files of fewer bytes; of others the size is looked at.

    Raises:
        DamagedFile: one is not; the message names it.
    """
    for name, (size, known) in ((_record(folder) or {}).get(FILES) or {}).items():
        path = folder / name
        if not path.is_file():
            raise jsonl.DamagedFile(f"{path} is missing, of which {folder / DONE} tells: {_remedy(folder)}")
        if path.stat().st_size != size or (size < below and hash_of_file(path) != known):
            raise jsonl.DamagedFile(
                f"{path} is not what {folder / DONE} says, one of them is damaged: {_remedy(folder)}"
            )


def _record(folder: Path) -> dict[str, Any] | None:
    record = next(jsonl.read(folder / DONE), None)
    try:
        return None if record is None else unseal(record)
    except Damaged as error:
        raise jsonl.DamagedFile(f"{folder / DONE} is damaged ({error}): {_remedy(folder)}") from error


def _remedy(folder: Path) -> str:
    return f"restore it, or delete {folder}, which is then made anew"


def _files(folder: Path) -> Iterator[Path]:
    left = {path for place in folder.glob(CHECKPOINTS) for path in place.rglob("*")}
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in OWN and path not in left)


def _known(path: Path) -> tuple[int, str]:
    return path.stat().st_size, hash_of_file(path)

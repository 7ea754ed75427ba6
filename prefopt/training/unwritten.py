"""What is said where a model or a checkpoint could not be written: which file, why, and how much room it takes."""

from __future__ import annotations

import io
import traceback
from pathlib import Path

from safetensors import SafetensorError

from ..utils.files import free
from .checkpoint import STAGING

FAILURES = (OSError, RuntimeError, SafetensorError)
"""What a write that fails raises: the system, torch and safetensors each have their own, and tokenizers a plain one."""


def is_of_writing(error: Exception) -> bool:
    """Whether an error may be that of a write."""
    return isinstance(error, FAILURES) or type(error) is Exception


def not_written(error: Exception, folder: Path, staged: Path, needed: int = 0) -> str:
    """What could not be written, why, and how much room that takes.

    Args:
        folder: where the files were to be.
        staged: where they are written before.
        needed: bytes that they take at least.
    """
    files = [path for path in staged.rglob("*") if path.is_file()]
    written = sum(path.stat().st_size for path in files)
    told = _file_of(error, staged)
    name = folder / told.relative_to(staged) if told.is_relative_to(staged) else told
    final = Path(*(part.removesuffix(STAGING) for part in name.parts))
    room = free(folder) + written
    return f"could not write {final} ({error}): at least {max(needed, written):,} bytes are needed, {room:,} are free"


def _file_of(error: Exception, staged: Path) -> Path:
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
        inside = [path for path in paths if path != staged and path.is_relative_to(staged) and not path.is_dir()]
        if inside:
            return inside[-1]
    return staged

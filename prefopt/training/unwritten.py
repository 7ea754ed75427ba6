"""What is said where a model or a checkpoint could not be written: which file, why, and how much room it takes."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError

from ..utils.files import free, path_of_error
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
    told = path_of_error(error, staged)
    name = folder / told.relative_to(staged) if told.is_relative_to(staged) else told
    final = Path(*(part.removesuffix(STAGING) for part in name.parts))
    room = free(folder) + written
    return f"could not write {final} ({error}): at least {max(needed, written):,} bytes are needed, {room:,} are free"

"""Says which file of a checkpoint cannot be loaded, and what to do, in the place of torch's traceback."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.trainer_pt_utils import safe_globals

RAISED = (pickle.UnpicklingError, EOFError, RuntimeError, LookupError, ValueError, TypeError, AttributeError)
"""What loading a damaged or foreign file raises."""


@contextmanager
def named(folder: str | Path | None, *patterns: str) -> Iterator[None]:
    """Load files of a checkpoint, that match these patterns.

    Raises:
        ValueError: one cannot be loaded, or does not fit; the message names it.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (*RAISED, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which torch raises of a file cut short
            raise
        found = [] if folder is None else sorted(path for pattern in patterns for path in Path(folder).glob(pattern))
        if not found:
            raise
        what = " or ".join(path.name for path in found)
        wrong = next((problem for path in found if (problem := _problem(path))), None)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            wrong or f"{folder}: {what} does not fit this run ({reason}): resume from another checkpoint"
        ) from error


def _problem(path: Path) -> str | None:
    """Why a file is none that torch loads without running code; None if it is one."""
    try:
        with safe_globals():
            torch.load(path, map_location="cpu", weights_only=True)
    except (*RAISED, OSError):
        return (
            f"{path}: not a file of plain tensors and values that torch has written; it was not opened further: it is "
            "damaged, or another program's: resume from another checkpoint"
        )
    return None

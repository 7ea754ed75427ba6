"""Whole-or-absent checkpoints, and which one to resume from. Knows folders and manifests, not training.

A checkpoint is written under another name, flushed, given a manifest of its files and only then renamed into place:
a run killed at any moment leaves either a complete `checkpoint-N` or none.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..utils import files
from ..utils.files import flush
from .identity import differences

logger = logging.getLogger(__name__)

MANIFEST = "prefopt_manifest.json"
RUN = "run.json"
STAGING = ".staging"
_NAME = re.compile(r"checkpoint-(\d+)$")


def publish(staged: Path, final: Path, run: dict[str, Any]) -> None:
    """Complete `staged` with a manifest, make sure it is on disk, and rename it to `final`.

    `run` describes what the checkpoint belongs to; `check_resumable` compares it later.
    """
    sizes = {str(f.relative_to(staged)): f.stat().st_size for f in sorted(staged.rglob("*")) if f.is_file()}
    (staged / MANIFEST).write_text(json.dumps({"files": sizes, "run": run}, indent=2))
    for file in staged.rglob("*"):
        flush(file)
    flush(staged)
    if final.exists():
        _remove(final)
    os.replace(staged, final)
    flush(final.parent)


def begin(run_dir: Path, run: dict[str, Any], resume: bool) -> None:
    """Make `run_dir` the folder of a run, or make sure that it is this run's.

    Raises:
        ValueError: it holds a run, and `resume` does not ask to go on with it; or one that `run` does not describe.
    """
    path = run_dir / RUN
    if not path.is_file():
        return files.replace(path, json.dumps(run, indent=2))
    if not resume:
        raise ValueError(
            f"{run_dir} holds a run already: pass resume_from_checkpoint=True to go on with it, or another output_dir"
        )
    _check_same(run_dir, json.loads(path.read_text()), run)


def _check_same(folder: Path, then: dict[str, Any], run: dict[str, Any]) -> None:
    if differing := differences(then, run):
        raise ValueError(f"{folder} belongs to another run: {'; '.join(differing)}")


def problem_with(folder: Path) -> str | None:
    """Why `folder` is not a complete checkpoint, or None if it is one."""
    if not (folder / MANIFEST).is_file():
        return f"no {MANIFEST}: it was not finished, or another program wrote it"
    try:
        sizes = json.loads((folder / MANIFEST).read_text())["files"]
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is damaged"
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    return None


def steps_of(run_dir: Path) -> list[int]:
    """Of the complete checkpoints, in their order."""
    return [_step(folder) for folder in _numbered(run_dir) if problem_with(folder) is None]


def newest(run_dir: str | Path) -> Path:
    """The newest complete checkpoint; says which newer ones it passed over and why.

    Raises:
        FileNotFoundError: there is none; the message lists what was found instead.
    """
    passed_over = []
    for folder in reversed(_numbered(Path(run_dir))):
        problem = problem_with(folder)
        if problem is None:
            return folder
        passed_over.append(f"{folder.name}: {problem}")
        logger.warning("not resuming from %s: %s", folder, problem)
    found = "; ".join(passed_over) or "no checkpoint-* folder"
    raise FileNotFoundError(f"no complete checkpoint in {run_dir} to resume from ({found})")


def check_resumable(folder: Path, run: dict[str, Any]) -> None:
    """Refuse a checkpoint of another model, or one that another step size made: its data position means nothing here.

    A folder without our manifest is left to transformers.

    Raises:
        ValueError: files are missing or cut short, or the checkpoint belongs to another run.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        logger.warning("%s has no %s: whether it belongs to this run cannot be checked", folder, MANIFEST)
        return
    problem = problem_with(folder)
    if problem is not None:
        raise ValueError(f"{folder} is not complete ({problem}): resume_from_checkpoint=True takes the newest that is")
    if not (folder / "optimizer.pt").is_file() and not any(folder.glob("global_step*")):
        logger.warning("%s holds no optimizer state (save_only_model): the optimizer starts anew", folder)
    _check_same(folder, json.loads(manifest.read_text())["run"], run)


def rotate(run_dir: Path, limit: int | None, keep: Collection[str | None] = ()) -> None:
    """Delete the oldest complete checkpoints beyond `limit`, but not the newest, and none of `keep`."""
    if not limit or limit < 1:
        return
    kept = {Path(each).name for each in keep if each}
    complete = [folder for folder in _numbered(run_dir) if problem_with(folder) is None]
    spare = [folder for folder in complete[:-1] if folder.name not in kept]
    for folder in spare[: max(0, len(complete) - limit)]:
        _remove(folder)


def _numbered(run_dir: Path) -> list[Path]:
    """checkpoint-N folders by N: names and times can lie, numbers do not."""
    return sorted((p for p in run_dir.glob("checkpoint-*") if p.is_dir() and _NAME.match(p.name)), key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _remove(folder: Path) -> None:
    # Renamed first: a removal that is cut short must not leave half a checkpoint under a checkpoint's name.
    doomed = folder.with_name(f".removing-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)

"""Whole-or-absent checkpoints, and which one to resume from. Knows folders and manifests, not training.

A checkpoint is written under another name, flushed, given a manifest of its files and only then renamed into place:
a run killed at any moment leaves either a complete `checkpoint-N` or none. The manifest holds a hash of each file, by
which damage that leaves its size is found before anything is read from it.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..utils import files
from ..utils.files import flush
from ..utils.hashing import Damaged, hash_of_file, sealed, unsealed
from .identity import check_same

logger = logging.getLogger(__name__)

MANIFEST = "prefopt_manifest.json"
OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*")
"""Where the optimizer's state is: Trainer's file, FSDP's file or folder, DeepSpeed's folder."""
RUN = "run.json"
STAGING = ".staging"
_NAME = re.compile(r"checkpoint-(\d+)$")


def publish(staged: Path, final: Path, run: dict[str, Any]) -> None:
    """Complete `staged` with a manifest, make sure it is on disk, and rename it to `final`.

    `run` describes what the checkpoint belongs to; `check_resumable` compares it later.
    """
    paths = [path for path in sorted(staged.rglob("*")) if path.is_file()]
    names = {path: str(path.relative_to(staged)) for path in paths}
    with ThreadPoolExecutor(1) as disk:
        flushing = disk.submit(_flush_all, paths)  # the disk writes what is hashed meanwhile
        hashes = {names[path]: hash_of_file(path) for path in paths}
        flushing.result()
    sizes = {names[path]: path.stat().st_size for path in paths}
    manifest = staged / MANIFEST
    try:
        manifest.write_text(sealed({"files": sizes, "hashes": hashes, "run": run}))
    except OSError as error:  # that of a write does not name the file
        raise files.explained(error, manifest, None) from error
    _flush_all([manifest, *(path for path in staged.rglob("*") if path.is_dir()), staged])
    if final.exists():
        _remove(final)
    os.replace(staged, final)
    flush(final.parent)


def _flush_all(paths: Iterable[Path]) -> None:
    for path in paths:
        flush(path)


def begin(run_dir: Path, run: dict[str, Any], resume: bool, changes: Collection[str] = ()) -> None:
    """Make `run_dir` the folder of a run, or make sure that it is this run's.

    Args:
        changes: names of what may differ.

    Raises:
        ValueError: it holds a run, and `resume` does not ask to go on with it; or one that `run` does not describe.
    """
    path = run_dir / RUN
    if not path.is_file():
        return files.replace(path, sealed(run))
    if not resume:
        raise ValueError(
            f"{run_dir} holds a run already: pass resume_from_checkpoint=True to go on with it, or another output_dir"
        )
    try:
        then = unsealed(path.read_bytes())
    except Damaged as error:
        raise ValueError(f"{path} is damaged ({error}): what it was begun with is not known, restore it") from error
    check_same(run_dir, then, run, changes)


def problem_with(folder: Path, *, thorough: bool = False) -> str | None:
    """Why `folder` is not a complete checkpoint, or None if it is one.

    Args:
        thorough: read its files too, and compare their hashes.
    """
    try:
        manifest = _manifest(folder)
    except Damaged as error:
        return str(error)
    for name, size in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    if not thorough:
        return None
    changed = (name for name, known in manifest.get("hashes", {}).items() if hash_of_file(folder / name) != known)
    return next((f"{name} is damaged: its content is not what was written" for name in changed), None)


def _manifest(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        Damaged: nothing that could be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise Damaged(f"no {MANIFEST}: it was not finished, or another program wrote it")
    try:
        manifest = unsealed(path.read_bytes())
        if all(isinstance(manifest[part], dict) for part in ("files", "run")):
            return manifest
    except (Damaged, KeyError):
        pass
    raise Damaged(f"{MANIFEST} is damaged")


def described(folder: Path) -> dict[str, Any]:
    """What a complete checkpoint belongs to, as `publish` was told."""
    return dict(_manifest(folder)["run"])


def steps_of(run_dir: Path) -> list[int]:
    """Of the complete checkpoints, in their order."""
    return [_step(folder) for folder in numbered(run_dir) if problem_with(folder) is None]


def newest(run_dir: str | Path, *, thorough: bool = True) -> Path:
    """The newest complete checkpoint; says which newer ones it passed over and why.

    Args:
        thorough: read its files too, which finds all damage; else only their names and sizes are looked at.

    Raises:
        FileNotFoundError: there is none; the message lists what was found instead.
    """
    passed_over = []
    for folder in reversed(numbered(Path(run_dir))):
        problem = problem_with(folder, thorough=thorough)
        if problem is None:
            return folder
        passed_over.append(f"{folder.name}: {problem}")
        logger.warning("not resuming from %s: %s", folder, problem)
    found = "; ".join(passed_over) or "no checkpoint-* folder"
    raise FileNotFoundError(f"no complete checkpoint in {run_dir} to resume from ({found})")


def check_resumable(folder: Path, run: dict[str, Any], changes: Collection[str] = ()) -> None:
    """Refuse a checkpoint that is damaged or of another run: of another model, other data or other settings.

    A folder without our manifest is left to transformers.

    Args:
        changes: names of what may differ.

    Raises:
        ValueError: files are missing, cut short or damaged, or the checkpoint belongs to another run.
    """
    if not (folder / MANIFEST).is_file():
        logger.warning("%s has no %s: whether it belongs to this run cannot be checked", folder, MANIFEST)
        return
    problem = problem_with(folder, thorough=True)
    if problem is not None:
        raise ValueError(f"{folder} is not complete ({problem}): resume_from_checkpoint=True takes the newest that is")
    if not any(any(folder.glob(pattern)) for pattern in OPTIMIZERS):
        logger.warning("%s holds no optimizer state (save_only_model): the optimizer starts anew", folder)
    check_same(folder, _manifest(folder)["run"], run, changes)


def rotate(run_dir: Path, limit: int | None, keep: Collection[str | None] = ()) -> None:
    """Delete the oldest complete checkpoints beyond `limit`, but not the newest, and none of `keep`."""
    if not limit or limit < 1:
        return
    kept = {Path(each).name for each in keep if each}
    complete = [folder for folder in numbered(run_dir) if problem_with(folder) is None]
    spare = [folder for folder in complete[:-1] if folder.name not in kept]
    for folder in spare[: max(0, len(complete) - limit)]:
        _remove(folder)


def numbered(run_dir: Path) -> list[Path]:
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

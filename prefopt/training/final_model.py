"""A saved model that is whole or absent: written under another name, then renamed file by file, its configs last.

Nothing loads a folder of weights without a config: a program that is killed in between leaves no model, and one that
runs out of disk leaves what was there, as nothing is renamed before all is written.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from ..utils.files import flush, make_folder
from .checkpoint import STAGING

CONFIGS = ("config.json", "adapter_config.json")
CARD = "README.md"
_WEIGHTS = re.compile(r"(model|adapter_model|pytorch_model).*\.(safetensors|bin)(\.index\.json)?")


def write_whole(save: Callable[[Path], None], folder: Path) -> None:
    """Let `save` write a model, or several in folders of their own, into `folder` as a whole.

    Args:
        save: writes into the folder that it is given.

    Raises:
        Exception: what `save` raises; then `folder` is as it was, and what was written so far is in `staged(folder)`.
    """
    place = staged(folder)
    shutil.rmtree(place, ignore_errors=True)
    make_folder(place)
    if (folder / CARD).is_file():  # to which PEFT adds its own part
        shutil.copy2(folder / CARD, place)
    save(place)
    for path in place.rglob("*"):
        flush(path)
    _rename_all(place, folder)
    discard(folder)


def staged(folder: Path) -> Path:
    """Where a model is written before it comes into its folder."""
    return folder / STAGING / "model"


def scratch(folder: Path) -> Path:
    """Where weights may be kept while they are gathered."""
    return folder / STAGING / "weights"


def discard(folder: Path) -> None:
    """Remove what was not finished."""
    shutil.rmtree(folder / STAGING, ignore_errors=True)


def _rename_all(place: Path, folder: Path) -> None:
    names = sorted(path.relative_to(place) for path in place.rglob("*") if path.is_file())
    configs = [name for name in names if name.name in CONFIGS]
    others = [name for name in names if name.name not in CONFIGS]
    _take_down(folder, {name.parent for name in configs}, set(names))
    for part in (others, configs):
        for name in part:
            make_folder((folder / name).parent)
            os.replace(place / name, folder / name)
        for parent in {name.parent for name in part}:
            flush(folder / parent)


def _take_down(folder: Path, parents: set[Path], names: set[Path]) -> None:
    """Remove the configs of an earlier model, and then those of its weights that the new one will not replace."""
    for parent in parents:
        old = [path for path in (folder / parent).glob("*") if path.is_file()]
        for path in sorted(old, key=lambda path: path.name not in CONFIGS):
            weights = _WEIGHTS.fullmatch(path.name) and path.relative_to(folder) not in names
            if path.name in CONFIGS or weights:
                path.unlink()
        if old:
            flush(folder / parent)

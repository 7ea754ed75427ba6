"""Files that a run leaves beside its model: its state and the metrics of its splits, each whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from ..utils import files

ALL = "all_results.json"


def write_state(folder: Path, state: TrainerState) -> None:
    """Write the state of the run, its log among it."""
    files.replace(folder / TRAINER_STATE_NAME, lambda path: state.save_to_json(str(path)))


def write_metrics(folder: Path, split: str, metrics: dict[str, float], combined: bool) -> None:
    """Write the metrics of a split to a file of its own and, if they are to be combined, beside those of the others."""
    files.replace(folder / f"{split}_results.json", json.dumps(metrics, indent=4, sort_keys=True))
    if not combined:
        return
    path = folder / ALL
    there = json.loads(path.read_text()) if path.is_file() else {}
    files.replace(path, json.dumps(there | metrics, indent=4, sort_keys=True))

"""Commands run within the test's process: how they end, what they say, what they write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefopt.cli import main

TRAINED = ["--bf16", "false", "--disable_tqdm", "true", "--per_device_train_batch_size", "4", "--max_length", "128"]
"""Options of a training that takes seconds."""


def asked(command: str, out: Path, *more: object, rows: str = "pairs.jsonl") -> list[object]:
    """The words of a command in the folder of the fixture `sampling_folder`."""
    return [command, "--model_name_or_path", "model", "--dataset_name", rows, "--output_dir", out, *more]


def run(*argv: object) -> int:
    """The exit code of a command, however it ends."""
    try:
        return main([str(word) for word in argv])
    except SystemExit as ending:
        return int(ending.code or 0)


def error_of(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """What a command that fails says."""
    capsys.readouterr()
    assert run(*argv) == 2
    return capsys.readouterr().err


def written(path: Path) -> dict:
    """What a command left as JSON."""
    return json.loads(path.read_text())

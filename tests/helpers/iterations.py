"""A run that samples, scores, selects and trains, small enough for seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefopt import RejectionSamplingConfig
from tests.helpers.training import quiet

DRAWN = {"responses_per_prompt": 4, "max_new_tokens": 12, "sampling_batch_size": 8}


def vowels(prompts: Any, responses: Any) -> list[float]:
    """A scorer that every tiny model's noise has something of."""
    return [sum(c in "aeiou的是" for c in text) - 0.01 * len(text) for text in responses]


def config(tmp_path: Path, kind: Any = RejectionSamplingConfig, **changes: Any) -> Any:
    given = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, **DRAWN, **changes}
    return kind(**quiet(tmp_path, **given))


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything that has to be the same: pool, scores, selections, reports and policies."""
    wanted = ("pool/**/*.jsonl", "iteration-*/selection.jsonl", "iteration-*/report.json", "iteration-*/policy/*.saf*")
    return {str(f.relative_to(folder)): f.read_bytes() for glob in wanted for f in sorted(folder.glob(glob))}

"""Arguments that most tests train with."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def quiet(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """Training arguments of a fast, silent, exact run on the CPU."""
    return {
        "output_dir": str(tmp_path / "run"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "predict_memory": False,
        **changes,
    }

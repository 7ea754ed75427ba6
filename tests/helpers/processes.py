"""Programs of `tests.helpers.programs`, run in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
"""The folder that holds `tests`."""


TIMEOUT_S = 1200
"""Seconds after which a program is taken for hanging, on the slowest and busiest computer."""


def completed(processes: int, module: str, argument: str) -> subprocess.CompletedProcess[str]:
    """What a program has said once it has ended: `python -m module argument`, by torchrun if on several ranks.

    Raises:
        AssertionError: it failed; with the end of what it said.
    """
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PREFOPT_CACHE": cache}
        done = subprocess.run(
            [*command, module, argument], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def launch(processes: int, module: str, **args: Any) -> dict[str, Any]:
    """What a program prints as its result; it is given `args` as JSON."""
    done = completed(processes, module, json.dumps(args))
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert len(lines) == 1, done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("RESULT "))

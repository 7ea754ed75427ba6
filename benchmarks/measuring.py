"""Measuring a training run: a process of its own, one thread, CPU seconds, peak memory, results that outlive a kill.

Nothing here knows a trainer. A measurement is a `Setting` (what all methods of a table share), a method and a repeat.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

THREADS = 1
RESULT = "RESULT "
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every method of one table shares. `model` and `rows` are paths; results keep their names only."""

    work: str
    model: str
    rows: str
    batch: int
    pairs: int
    max_length: int = 512
    precision: str = "fp32"
    lora: bool = False

    def key(self) -> dict[str, Any]:
        """What tells results apart, the same on every machine."""
        return asdict(self) | {"model": Path(self.model).name, "rows": Path(self.rows).stem}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One run to measure. `options` are arguments for prefopt's trainer, or the token budget of a bare loop."""

    setting: Setting
    method: str
    repeat: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The method with its options, as tables name it."""
        options = ", ".join(f"{name}={value}" for name, value in sorted(self.options.items()))
        return f"{self.method} ({options})" if options else self.method

    def key(self) -> dict[str, Any]:
        return {"setting": self.setting.key(), "method": self.label, "repeat": self.repeat}

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def parse(text: str) -> Measurement:
        fields = json.loads(text)
        return Measurement(**fields | {"setting": Setting(**fields["setting"])})


# ---- in the measured process ---------------------------------------------------------------------------------------


def cpu_seconds() -> float:
    """User and system time of this process, all its threads."""
    spent = os.times()
    return spent.user + spent.system


def peak_mib() -> float:
    """The largest resident memory that this process ever had."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):  # ru_maxrss would start at the size of the process that started this one
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Stopwatch:
    """CPU seconds, wall seconds and embedded tokens from `start` to the last `lap`, plus what was `extra`."""

    def __init__(self) -> None:
        self.tokens = 0
        self.begin = self.end = self._now()
        self.extra = (0.0, 0.0, 0)

    def _now(self) -> tuple[float, float, int]:
        return cpu_seconds(), time.perf_counter(), self.tokens

    def start(self) -> None:
        self.begin = self.end = self._now()

    def lap(self) -> None:
        self.end = self._now()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What runs in here is a pass over the data before training: `per_pair` spreads it over all pairs."""
        before = self._now()
        yield
        self.extra = tuple(e + a - b for e, a, b in zip(self.extra, self._now(), before, strict=True))  # type: ignore

    def per_pair(self, timed: int, all_pairs: int) -> dict[str, float]:
        """Of `timed` pairs, and of `all_pairs` (the warm-up included) what was aside."""
        spent = [end - begin for begin, end in zip(self.begin, self.end, strict=True)]
        each = [s / timed + e / all_pairs for s, e in zip(spent, self.extra, strict=True)]
        found = {name: round(value, 4) for name, value in zip(("cpu_s", "wall_s", "tokens"), each, strict=True)}
        return found | {"peak_mib": round(peak_mib())}

    def count_tokens(self) -> None:
        """Count from now on every token that any model of this process embeds, padding included."""
        from torch import nn

        original = nn.Embedding.forward

        def counting(module: nn.Embedding, ids: Any) -> Any:
            self.tokens += ids.numel()
            return original(module, ids)

        nn.Embedding.forward = counting  # type: ignore


def machine() -> dict[str, Any]:
    """What the numbers depend on beside the setting."""
    import prefopt

    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in _lines(info) if line.startswith("model name")]
    versions = {name: version(name) for name in LIBRARIES} | {"prefopt": prefopt.__version__}
    return {"cpu": names[0] if names else platform.processor(), "threads": THREADS, "versions": versions}


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# ---- in the process that starts it ---------------------------------------------------------------------------------


def in_own_process(script: Path, *arguments: str) -> dict[str, Any]:
    """Run `script` in a fresh process with one thread and return the dict that it `report`s.

    Raises:
        RuntimeError: it failed; the message ends with what it wrote last.
    """
    with tempfile.TemporaryDirectory(prefix="prefopt-bench-") as folder:
        command = [sys.executable, str(script.resolve()), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=_environment(folder))
    found = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    if done.returncode or not found:
        raise RuntimeError(f"ended with status {done.returncode}:\n{(done.stderr or done.stdout)[-3000:]}")
    return json.loads(found[-1].removeprefix(RESULT))


def _environment(folder: str) -> dict[str, str]:
    """One thread, no accelerator, no network, no progress bars, and caches that end with the process."""
    threads = {name: str(THREADS) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    quiet = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    quiet |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "CUDA_VISIBLE_DEVICES": ""}
    caches = {"PREFOPT_CACHE": folder, "HF_DATASETS_CACHE": folder, "TMPDIR": folder}
    return {**os.environ, **threads, **quiet, **caches}


def report(result: dict[str, Any]) -> None:
    """Hand `result` to the process that started this one."""
    print(RESULT + json.dumps(result), flush=True)


class Results:
    """A JSONL file that results are appended to as they come; what is in it is not measured again."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All whole lines: a killed process may leave half of one."""
        return [record for line in _lines(self.path) if (record := _parsed(line)) is not None]

    def append(self, record: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = not self.path.exists() or self.path.read_bytes()[-1:] in (b"", b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("" if whole else "\n") + json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def has(self, key: dict[str, Any]) -> bool:
        return any(key.items() <= record.items() for record in self.read())


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None

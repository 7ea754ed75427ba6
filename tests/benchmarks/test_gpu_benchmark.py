"""The script for GPUs as far as CPUs go: its parts, that one which fails loses no other, and predicted peaks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *parts: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit status, and what each part wrote."""
    import gpu

    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tiny", "--output_dir", str(tmp_path), "--parts", *parts])
    status = gpu.main()
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    return status, {record["part"]: record for record in map(json.loads, lines)}


def test_parts_that_need_no_gpu_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    status, found = ran(monkeypatch, tmp_path, "layouts", "dpo", "peak", "recovery", "sampling")
    assert status == 0 and [record["status"] for record in found.values()] == ["ok", "ok", "ok", "skipped", "ok"]
    assert found["layouts"]["found"]["logps"] < 1e-4
    assert found["dpo"]["found"]["tokens_per_s"] > 0 and found["dpo"]["found"]["tflop_per_s"] > 0
    peaks = found["peak"]["found"]
    assert peaks["lora: predicted GiB"] < peaks["full: predicted GiB"]
    assert "memory can be limited on a GPU only" in found["recovery"]["why"]
    said = capsys.readouterr().out
    assert "| part | status | seconds | found |" in said and said.count('{"part": ') == 5


def test_a_part_that_fails_loses_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import gpu

    def broken(bench: Any) -> dict[str, Any]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setitem(gpu.PARTS, "dpo", broken)
    status, found = ran(monkeypatch, tmp_path, "dpo", "layouts")
    assert status == 1 and found["layouts"]["status"] == "ok"
    assert found["dpo"]["status"] == "failed" and "illegal memory access" in found["dpo"]["why"]


def test_a_process_that_dies_is_a_part_that_failed() -> None:
    import subprocess

    from gpu import _reported

    with pytest.raises(RuntimeError, match="ended with status -9: Killed"):
        _reported(subprocess.CompletedProcess([], -9, "", "Killed"))


@pytest.mark.slow
def test_a_predicted_peak_beside_the_measured_one(tmp_path: Path) -> None:
    import subprocess

    command = [sys.executable, str(BENCHMARKS / "peak_memory.py"), "--cases", "sft", "--lengths", "64", "--batch", "2"]
    done = subprocess.run([*command, "--output_dir", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (record,) = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert record["ratio"] == pytest.approx(record["predicted"] / record["measured"], rel=0.05)
    assert f"| sft | 64 | {record['predicted']} | {record['measured']} |" in done.stdout

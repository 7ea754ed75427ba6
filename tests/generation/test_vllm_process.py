"""vLLM's engine in a process of its own: what it says is heard, and it ends with whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from prefopt.generation._vllm_process import EngineError, EngineProcess
from tests.helpers.vllm import asked_of, fake_vllm

REQUEST = {
    "prompt_token_ids": [5, 6, 7],
    "seed": 11,
    "max_tokens": 8,
    "stop_token_ids": [2],
}
PARENT = """
import sys
from prefopt.generation._vllm_process import EngineProcess
engine = EngineProcess(None, "model", None, {})
print("started", flush=True)
engine.respond([dict(prompt_token_ids=[5], seed=1, max_tokens=4, stop_token_ids=[2])])
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "asked.jsonl"


def ended(pid: int) -> bool:
    """Whether a process is gone, waiting for it; one that is a zombie is."""
    for _ in range(1000):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_seed_decides_a_response_whatever_is_asked_beside_it(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm(monkeypatch, log)
    engine = EngineProcess(None, "model", None, {"dtype": "float32"})
    others = [{**REQUEST, "seed": seed} for seed in range(5)]
    [alone] = engine.respond([REQUEST])
    assert engine.respond([*others, REQUEST])[-1] == alone == engine.respond([REQUEST, *others])[0]
    assert len(alone["ids"]) == len(alone["logps"]) and alone["finish_reason"] in ("stop", "length")
    engine.close()
    started = asked_of(log)[0]
    # What it is told wherever it is not left to vLLM, and on CPUs.
    assert started["start"] == {
        "model": "model",
        "generation_config": "vllm",
        "logprobs_mode": "raw_logprobs",
        "enable_chunked_prefill": False,
        "enforce_eager": True,
        "dtype": "float32",
    }
    assert ended(started["pid"])


def test_the_last_lines_of_an_engine_that_cannot_start_are_quoted(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm(monkeypatch, log, start="fail")
    with pytest.raises(EngineError, match=r"(?s)ended with status 1.*RuntimeError: no room for the model"):
        EngineProcess(None, "model", None, {})


@pytest.mark.parametrize(
    ("generate", "message"),
    [("fail", r"(?s)status 1.*a line before it.*the cache of keys and values is full"), ("die", "ended with SIGKILL")],
)
def test_an_engine_that_ends_is_an_error_with_its_last_lines(
    log: Path, monkeypatch: pytest.MonkeyPatch, generate: str, message: str
) -> None:
    fake_vllm(monkeypatch, log, generate=generate)
    engine = EngineProcess(None, "model", None, {})
    with pytest.raises(EngineError, match=message):
        for _ in range(2):
            engine.respond([REQUEST])
    assert ended(asked_of(log)[0]["pid"])
    with pytest.raises((EngineError, ValueError)):
        engine.respond([REQUEST])
    engine.close()


def test_a_python_that_is_none_and_one_without_vllm_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vllm_python=.*nowhere: No such file"):
        EngineProcess(str(tmp_path / "nowhere"), "model", None, {})
    with pytest.raises(ImportError, match=rf"(?s)not installed for {sys.executable}: pip install.*vllm_python"):
        EngineProcess(None, "model", None, {})


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "computing"])
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_an_engine_ends_with_its_parent(log: Path, monkeypatch: pytest.MonkeyPatch, signum: int, busy: bool) -> None:
    fake_vllm(monkeypatch, log, generate="hang")
    program = PARENT if busy else PARENT.rpartition("engine.respond")[0] + "import time; time.sleep(1000)"
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout is not None and parent.stdout.readline() == b"started\n"
    while busy and len(asked_of(log)) < 2:
        time.sleep(0.02)
    pid = asked_of(log)[0]["pid"]
    assert not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].startswith(" Z")
    os.kill(parent.pid, signum)
    parent.wait()
    assert ended(pid)


def test_an_engine_ends_with_its_parent_though_another_process_holds_the_pipe(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a loader's worker does, which was forked when the engine was there."""
    fake_vllm(monkeypatch, log)
    program = PARENT.rpartition("engine.respond")[0].replace(
        'print("started"', "import os, time\nif not (child := os.fork()):\n    time.sleep(1000)\nprint(child"
    )
    parent = subprocess.Popen([sys.executable, "-c", program + "time.sleep(1000)"], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        parent.kill()
        parent.wait()
        assert ended(asked_of(log)[0]["pid"])
    finally:
        os.kill(child, signal.SIGKILL)


def test_an_interrupt_ends_an_engine_that_computes(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm(monkeypatch, log, generate="hang")
    engine = EngineProcess(None, "model", None, {})
    before = signal.signal(signal.SIGALRM, _interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            engine.respond([REQUEST])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert ended(asked_of(log)[0]["pid"])


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt

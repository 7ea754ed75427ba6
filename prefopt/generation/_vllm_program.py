"""The program in which a vLLM engine runs, in a process of its own: `_vllm_process.py` starts it by its path.

Its Python has vLLM and need not have prefopt, so that nothing but the standard library and vLLM is imported here. It
reads JSON from standard input, a line at a time, and answers on what was standard output; all that vLLM says goes to
standard error.

    {"model": ..., "adapter": ..., "arguments": {...}}   ->   {"version": ..., "limit": ...}
    {"requests": [{...}, ...]}                           ->   {"answers": [{...}, ...]}
    null                                                      ends it

What cannot be is answered with {"refused": why}. It ends with its parent, however that ends.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TextIO

TICK = 1.0
"""Seconds after which it is looked again whether the parent is there: another process may hold the pipe open."""


class Refused(Exception):
    """What is asked for cannot be; the message says why."""


class Engine:
    """vLLM with one model.

    Args:
        model: the folder or hub id of a model.
        adapter: the folder of a LoRA adapter on it, None for the model alone.
        arguments: for `vllm.LLM`, which win over what is chosen here.
    """

    def __init__(self, model: str, adapter: str | None, arguments: dict[str, Any]):
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # this is a process of its own already
        self.vllm = _imported()
        chosen: dict[str, Any] = {
            "generation_config": "vllm",  # which leaves the checkpoint's penalties and cuts out
            "logprobs_mode": "raw_logprobs",  # those before a request's own temperature and cuts
        }
        if _on_cpu():
            _check_head(model, arguments)
            # A prompt that is computed in chunks and has a seed ends vLLM on CPUs; compiling costs it minutes there.
            chosen |= {"enable_chunked_prefill": False, "enforce_eager": True}
        self.llm = self.vllm.LLM(model=model, **chosen | arguments)
        self.limit = int(self.llm.llm_engine.model_config.max_model_len)
        self.adapter = None if adapter is None else _adapter(adapter)

    def respond(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The answers to requests: arguments of `vllm.SamplingParams`, beside `prompt_token_ids`."""
        params = [{name: value for name, value in each.items() if name != "prompt_token_ids"} for each in requests]
        outputs = self.llm.generate(
            [{"prompt_token_ids": each["prompt_token_ids"]} for each in requests],
            [self.vllm.SamplingParams(**each) for each in params],
            use_tqdm=False,
            lora_request=self.adapter,
        )
        return [_answer(each) for output in outputs for each in output.outputs]


def _answer(output: Any) -> dict[str, Any]:
    ids = list(output.token_ids)
    logps = [float(known[token].logprob) for token, known in zip(ids, output.logprobs or (), strict=False)]
    return {"ids": ids, "logps": logps, "finish_reason": output.finish_reason, "stop_reason": output.stop_reason}


def _imported() -> Any:
    try:
        import vllm
    except ModuleNotFoundError as error:
        if error.name != "vllm":  # it is there, and something that it needs is not
            raise
        raise Refused("vLLM is not installed") from error
    return vllm


def _adapter(folder: str) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name="policy", lora_int_id=1, lora_path=folder)


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _check_head(model: str, arguments: dict[str, Any]) -> None:
    """Refuse a model whose heads vLLM cannot compute on CPUs, which it says only once the weights are loaded."""
    with suppress(ImportError, AttributeError):
        from transformers import AutoConfig
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        located = {name: arguments[name] for name in ("revision", "trust_remote_code") if name in arguments}
        config = AutoConfig.from_pretrained(model, **located).get_text_config()
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        sizes = CPUAttentionBackend.get_supported_head_sizes()
        if size not in sizes:
            raise Refused(f"the model's attention heads have {size} numbers, and vLLM on CPUs computes {sizes} alone")


# ---- its connection to the parent ------------------------------------------------------------------------------------


def _lines(end: Callable[[], None]) -> Iterator[str]:
    """What the parent writes, line by line. Calls `end` when there is no parent any more, also while one computes."""
    lines: queue.Queue[str] = queue.Queue()
    parent = os.getppid()

    def read() -> None:
        rest = b""
        while os.getppid() == parent:
            if not select.select([0], [], [], TICK)[0]:
                continue
            part = os.read(0, 1 << 20)
            if not part:
                break
            *whole, rest = (rest + part).split(b"\n")
            for line in whole:
                lines.put(line.decode())
        end()

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


def _end() -> None:
    """End at once, with all processes that vLLM has started: they are of one group, which the parent has made."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _say(out: TextIO, message: dict[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def main() -> None:
    """Start the engine that the first line describes, and answer requests until the parent is done."""
    sys.path[:] = [place for place in sys.path if os.path.abspath(place) != os.path.dirname(os.path.abspath(__file__))]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lines = _lines(_end)
    try:
        engine = Engine(**json.loads(next(lines)))
        _say(out, {"version": engine.vllm.__version__, "limit": engine.limit})
        while (asked := json.loads(next(lines))) is not None:
            _say(out, {"answers": engine.respond(asked["requests"])})
    except Refused as error:
        _say(out, {"refused": str(error)})
        sys.exit(1)


if __name__ == "__main__":
    main()

"""A package with vLLM's interface whose responses are made up: of the standard library alone, so that it starts fast.

A response is a function of its prompt and its seed. $FAKE_VLLM, in JSON, says what else happens:

    log         a file that is told of every start and every request
    start       "fail": the engine says why it cannot start; "hang": it never does
    generate    "fail", "hang", or "die": it is killed, at the second call
    version     of the package
    limit       the longest prompt with its response
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

BEHAVIOUR: dict[str, Any] = json.loads(os.environ.get("FAKE_VLLM", "{}"))
__version__ = BEHAVIOUR.get("version", "0.32.0")


class SamplingParams(SimpleNamespace):
    pass


def note(what: dict[str, Any]) -> None:
    if "log" in BEHAVIOUR:
        with Path(BEHAVIOUR["log"]).open("a", encoding="utf-8") as log:
            log.write(json.dumps({**what, "pid": os.getpid()}) + "\n")


def behave(what: str | None, message: str) -> None:
    if what == "fail":
        print("a line before it", file=sys.stderr)
        raise RuntimeError(message)
    if what == "hang":
        time.sleep(1000)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)


class LLM:
    def __init__(self, **arguments: Any):
        print("vLLM says a lot on standard output")
        files = sorted(path.name for path in Path(arguments["model"]).glob("*.safetensors"))
        note({"start": arguments, "files": files})
        behave(BEHAVIOUR.get("start"), "no room for the model")
        limit = arguments.get("max_model_len") or BEHAVIOUR.get("limit", 1 << 20)
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=limit))
        self.calls = 0

    def generate(
        self, prompts: list[dict[str, Any]], sampling_params: list[Any], *, use_tqdm: bool, lora_request: Any
    ) -> list[Any]:
        self.calls += 1
        adapter = None if lora_request is None else lora_request.lora_path
        note({"requests": len(prompts), "adapter": adapter, "seeds": [each.seed for each in sampling_params]})
        if self.calls > 1 or BEHAVIOUR.get("generate") != "die":
            behave(BEHAVIOUR.get("generate"), "the cache of keys and values is full")
        return [SimpleNamespace(outputs=[respond(*both)]) for both in zip(prompts, sampling_params, strict=True)]


def respond(prompt: dict[str, Any], params: Any) -> Any:
    chance = random.Random(repr((prompt["prompt_token_ids"], params.seed)))
    length = min(params.max_tokens, chance.randint(2, 12))
    ids = [chance.randint(20, 200) for _ in range(length)]
    ids = [token for token in ids if token not in params.stop_token_ids] or [20]
    ended = len(ids) < params.max_tokens
    ids += params.stop_token_ids[:1] if ended else []
    logprobs = [{token: SimpleNamespace(logprob=-1.5)} for token in ids]
    reason = ("stop", ids[-1]) if ended else ("length", None)
    return SimpleNamespace(token_ids=ids, logprobs=logprobs, finish_reason=reason[0], stop_reason=reason[1])

"""A stand-in for vLLM, with its interface: as strict as vLLM where a mistake would stay unseen, and slower.

The package in `fake_vllm` is another one, for engines in processes of their own: its responses are made up.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer, LlamaForCausalLM

from prefopt.generation._vllm_program import Engine

FAKE = Path(__file__).parent / "fake_vllm"


@dataclass
class SamplingParams:
    """Those of vLLM's settings that we may pass, with its defaults and checks."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    max_tokens: int = 16
    logprobs: int | None = None
    detokenize: bool = True

    def __post_init__(self) -> None:
        assert self.temperature == 0 or 0.01 <= self.temperature <= 2, "below, vLLM clamps; above, it refuses"
        assert self.max_tokens >= 1 and (self.seed is None or 0 <= self.seed < 2**63)
        assert self.detokenize or not self.stop


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class LLM:
    """vLLM's engine for a tiny model, one request at a time, in the checkpoint's own precision."""

    change: Any = None
    """Of an answer, in a test."""

    def __init__(
        self,
        *,
        model: str,
        generation_config: str = "auto",
        logprobs_mode: str = "raw_logprobs",
        max_model_len: int | None = None,
        enable_lora: bool = False,
        max_lora_rank: int = 16,
        dtype: str = "auto",
        enable_chunked_prefill: bool = True,
        enforce_eager: bool = False,
    ):
        assert generation_config == "vllm" and max_lora_rank in (1, 8, 16, 32, 64, 128, 256, 320, 512)
        self.model: Any = LlamaForCausalLM.from_pretrained(model, dtype="auto").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.raw, self.room = logprobs_mode == "raw_logprobs", max_lora_rank if enable_lora else 0
        self.limit = max_model_len or self.model.config.max_position_embeddings
        self.asked: list[SamplingParams] = []
        assert dtype == str(self.model.dtype).removeprefix("torch."), "left open, vLLM takes another one"
        assert not enable_chunked_prefill, "on CPUs, a seeded prompt in chunks ends vLLM"
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=self.limit))

    def generate(
        self,
        prompts: list[dict[str, list[int]]],
        sampling_params: list[SamplingParams],
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
    ) -> list[Any]:
        assert len(prompts) == len(sampling_params) and not use_tqdm
        assert all(set(prompt) == {"prompt_token_ids"} for prompt in prompts)
        if lora_request is not None and not isinstance(self.model, PeftModel):
            self.model = PeftModel.from_pretrained(self.model, lora_request.lora_path).eval()
            assert self.model.active_peft_config.r <= self.room
        self.asked += sampling_params
        pairs = zip(prompts, sampling_params, strict=True)
        found = [self._respond(prompt["prompt_token_ids"], settings) for prompt, settings in pairs]
        return [SimpleNamespace(outputs=[one]) for one in (self.change(found) if self.change else found)]

    def _respond(self, prompt: list[int], settings: SamplingParams) -> Any:
        generator = torch.Generator().manual_seed(settings.seed or 0)
        stream, text = DecodeStream(ids=prompt, skip_special_tokens=True), ""
        ids: list[int] = []
        logps: list[Any] = []
        reason: tuple[str | None, Any] = (None, None)
        while reason[0] is None:
            with torch.no_grad():
                logits = self.model(input_ids=torch.tensor([prompt + ids])).logits[0, -1]
            shaped = self._shaped(logits, prompt + ids, settings)
            noise = torch.empty_like(shaped).exponential_(generator=generator)
            token = int((shaped.softmax(-1) / noise if settings.temperature else shaped).argmax())
            ids.append(token)
            if settings.logprobs is not None:
                logp = (logits if self.raw else shaped).log_softmax(-1)[token]
                logps.append({token: SimpleNamespace(logprob=float(logp))})
            text += (stream.step(self.tokenizer._tokenizer, token) or "") if settings.detokenize else ""
            reason = self._reason(prompt, ids, text, settings)
        return SimpleNamespace(
            token_ids=ids, logprobs=logps or None, finish_reason=reason[0], stop_reason=reason[1], text=text
        )

    def _shaped(self, logits: torch.Tensor, seen: list[int], settings: SamplingParams) -> torch.Tensor:
        logits = logits.clone()
        known = logits[(ids := sorted(set(seen)))]
        logits[ids] = torch.where(known > 0, known / settings.repetition_penalty, known * settings.repetition_penalty)
        if not settings.temperature:
            return logits
        logits /= settings.temperature
        if settings.top_k > 0:
            logits[logits < logits.topk(settings.top_k).values[-1]] = -torch.inf
        order = logits.argsort()
        logits[order[:-1][logits[order].softmax(-1).cumsum(-1)[:-1] <= 1 - settings.top_p]] = -torch.inf
        return logits

    def _reason(self, prompt: list[int], ids: list[int], text: str, settings: SamplingParams) -> tuple[Any, Any]:
        if not settings.ignore_eos and ids[-1] == self.tokenizer.eos_token_id:
            return "stop", None
        if ids[-1] in settings.stop_token_ids:
            return "stop", ids[-1]
        # vLLM looks for stop strings after its scheduler has looked at the length, and they win.
        if seen := next((string for string in settings.stop if string in text), None):
            return "stop", seen
        over = len(ids) >= settings.max_tokens or len(prompt) + len(ids) >= self.limit
        return ("length", None) if over else (None, None)


class InProcess:
    """An engine as `_vllm_program.py` runs it, in this very process."""

    def __init__(self, python: str | None, model: str, adapter: str | None, arguments: Mapping[str, Any]):
        self.engine = Engine(model, adapter, dict(arguments))
        self.llm: Any = self.engine.llm
        self.limit, self.closed = self.engine.limit, 0

    def respond(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return self.engine.respond([dict(request) for request in requests])

    def close(self) -> None:
        self.closed += 1


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a `VLLM` start the stand-in, in this process."""
    names = ("vllm", "vllm.lora", "vllm.lora.request", "vllm.platforms")
    modules = {name: ModuleType(name) for name in names}
    vars(modules["vllm"]).update(LLM=LLM, SamplingParams=SamplingParams)
    vars(modules["vllm.lora.request"]).update(LoRARequest=LoRARequest)
    vars(modules["vllm.platforms"]).update(current_platform=SimpleNamespace(is_cpu=lambda: True))
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("prefopt.generation.vllm.EngineProcess", InProcess)


def fake_vllm(monkeypatch: pytest.MonkeyPatch, log: Path, **behaviour: Any) -> None:
    """Let engines in processes of their own import the package in `fake_vllm`, which writes down what is asked of it.

    Args:
        behaviour: see there.
    """
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(FAKE), os.environ.get("PYTHONPATH")))))
    monkeypatch.setenv("FAKE_VLLM", json.dumps({"log": str(log), **behaviour}))


def asked_of(log: Path) -> list[dict[str, Any]]:
    """What engines were asked, in its order: {"start": ...} or {"requests": ...}, with the engine's pid."""
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.is_file() else []

"""A policy that a server has: which model it has is checked, an adapter is brought and taken away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

from prefopt.generation import VLLM, sample
from prefopt.generation._vllm_process import EngineError
from tests.helpers.models import tiny_llama
from tests.helpers.vllm_server import fake_server

PROMPTS = [[{"role": "user", "content": text}] for text in ("What is 2 + 2?", "法国的首都是哪里？", "Hi")]


@pytest.fixture(scope="module")
def folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    tiny_llama().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def adapter(folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    policy = tiny_llama()
    policy.config._name_or_path = policy.name_or_path = folder
    adapted = get_peft_model(policy, LoraConfig(r=4, task_type="CAUSAL_LM"))
    path = tmp_path_factory.mktemp("adapter")
    adapted.save_pretrained(path)
    return str(path)


def test_every_request_says_all_that_shapes_a_response(folder: str, tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "a-key")
    with fake_server(folder) as server, VLLM(folder, url=f"{server.url}/v1/") as policy:
        found = sample(policy, tokenizer, PROMPTS, k=3, temperature=0.7, top_k=5, max_new_tokens=12)
    assert {(b["temperature"], b["top_k"], b["top_p"], b["repetition_penalty"]) for b in server.bodies} == {
        (0.7, 5, 1.0, 1.0)
    }
    plain = {"min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "ignore_eos": True, "logprobs": 0}
    assert all(plain.items() <= body.items() and body["return_token_ids"] for body in server.bodies)
    assert len({body["seed"] for body in server.bodies}) == 9 and {b["model"] for b in server.bodies} == {"served"}
    assert all(one.finish_reason == "stop" and set(one.logps) == {-1.5} for row in found for one in row)
    assert set(server.keys) == {"Bearer a-key"}


def test_a_seed_decides_a_response_in_any_order(folder: str, tokenizer: Any) -> None:
    with fake_server(folder) as server, VLLM(folder, url=server.url) as policy:
        found = sample(policy, tokenizer, PROMPTS, k=2, keys=list("abc"))
        assert sample(policy, tokenizer, PROMPTS[::-1], k=2, keys=list("cba")) == found[::-1]


def test_an_adapter_is_brought_and_taken_away(folder: str, adapter: str, tokenizer: Any) -> None:
    with fake_server(folder) as server:
        with VLLM(adapter, url=server.url) as policy:
            sample(policy, tokenizer, PROMPTS)
            assert server.taken == [adapter] == list(server.adapters.values())
            assert {body["model"] for body in server.bodies} == set(server.adapters)
        assert server.adapters == {}


def test_another_model_is_refused_and_named(folder: str, tokenizer: Any, tmp_path: Path) -> None:
    with fake_server("some/other-model") as server, VLLM(folder, url=server.url) as policy:
        with pytest.raises(ValueError, match=r"serves some/other-model, and .* from .*vllm serve"):
            sample(policy, tokenizer, PROMPTS)
        assert server.bodies == []


def test_a_server_that_takes_no_adapters_is_told_how_to_be_started(folder: str, adapter: str, tokenizer: Any) -> None:
    with (
        fake_server(folder, takes_adapters=False) as server,
        VLLM(adapter, url=server.url) as policy,
        pytest.raises(ValueError, match=r"HTTP 404.*VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve .*rank 8"),
    ):
        sample(policy, tokenizer, PROMPTS)


def test_its_limit_and_its_errors_are_told(folder: str, tokenizer: Any) -> None:
    with (
        fake_server(folder, limit=40) as server,
        VLLM(folder, url=server.url) as policy,
        pytest.raises(ValueError, match=r"prompt \d has \d+ tokens.*more than the 40 positions.*--max-model-len"),
    ):
        sample(policy, tokenizer, PROMPTS, max_new_tokens=60)
    with (
        fake_server(folder, fails=True) as server,
        VLLM(folder, url=server.url) as policy,
        pytest.raises(EngineError, match="HTTP 400.*the context is too short"),
    ):
        sample(policy, tokenizer, PROMPTS)


def test_a_place_without_a_server_is_named(folder: str, tokenizer: Any) -> None:
    with (
        VLLM(folder, url="http://127.0.0.1:9") as policy,
        pytest.raises(ValueError, match=r"vllm_server_base_url=http://127.0.0.1:9: no vLLM server.*vllm serve"),
    ):
        sample(policy, tokenizer, PROMPTS)
    with VLLM(folder, url="localhost:8000") as policy, pytest.raises(ValueError, match="vllm_server_base_url"):
        sample(policy, tokenizer, PROMPTS)

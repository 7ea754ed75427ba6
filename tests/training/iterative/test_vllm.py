"""Iterations whose responses an engine of its own samples: which policy it has, when it is there, and a kill of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import LlamaForCausalLM, TrainerCallback

from prefopt import RejectionSamplingConfig, RejectionSamplingTrainer, RRHFConfig, RRHFTrainer
from prefopt.candidates import Pool
from prefopt.generation._vllm_process import EngineError
from tests.helpers.iterations import config, files_of, vowels
from tests.helpers.models import tiny_llama
from tests.helpers.processes import launch
from tests.helpers.vllm import asked_of, fake_vllm

ROWS = [{"prompt": f"question {number}", "chosen": "aye", "rejected": "no"} for number in range(6)]
VLLM = {"use_vllm": True, "iterations": 2, "sampling_batch_size": 3}


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_vllm(monkeypatch, tmp_path / "asked.jsonl")
    return tmp_path / "asked.jsonl"


@pytest.fixture
def policy(tokenizer: Any, tmp_path: Path) -> str:
    """The folder of a model."""
    tiny_llama().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def trainer_of(policy: str, out: Path, kind: Any = RejectionSamplingTrainer, more: Any = None, **changes: Any) -> Any:
    settings = config(out, kind.config, **{**VLLM, **changes})
    return kind(policy, settings, train_dataset=ROWS, scorer=vowels, **(more or {}))


class Engines(TrainerCallback):
    """Which engines there are when training begins."""

    def __init__(self, log: Path):
        self.log, self.there = log, list[int]()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        pids = {each["pid"] for each in asked_of(self.log)}
        self.there += [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("kind", [RejectionSamplingTrainer, RRHFTrainer])
def test_each_iteration_samples_from_the_policy_as_it_is_by_an_engine_that_is_gone_when_it_trains(
    policy: str, log: Path, tmp_path: Path, kind: Any
) -> None:
    engines = Engines(log)
    more = {"callbacks": [engines], "eval_dataset": ROWS[:2]}
    trainer = trainer_of(policy, tmp_path / "out", kind, more, eval_strategy="epoch")
    trainer.train()
    assert engines.there == []
    starts = [each for each in asked_of(log) if "start" in each]
    assert len(starts) == 4  # to sample and to evaluate, twice
    assert {each["start"]["dtype"] for each in starts} == {"float32"} and all(each["files"] for each in starts)
    assert {each["start"]["gpu_memory_utilization"] for each in starts} == {0.3}
    sampled = list(Pool(tmp_path / "out/run/pool").candidates())
    by_engine = [each for each in sampled if each.ids]  # RRHF ranks the dataset's own answers too
    assert len(by_engine) == 2 * len(ROWS) * trainer.objective.responses_per_prompt
    versions = {(each.iteration, each.policy) for each in by_engine}
    assert len(versions) == 2 and all(version.endswith("-vllm-float32") for _, version in versions)
    assert not (tmp_path / "out/run/policy-to-sample").exists()


def test_an_engine_has_the_weights_of_the_iteration(
    policy: str, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def start(self: Any, python: Any, model: str, adapter: Any, arguments: Any) -> None:
        seen.append(LlamaForCausalLM.from_pretrained(model).lm_head.weight.detach().clone())
        real(self, python, model, adapter, arguments)

    from prefopt.generation._vllm_process import EngineProcess

    real = EngineProcess.__init__
    monkeypatch.setattr(EngineProcess, "__init__", start)
    trainer_of(policy, tmp_path / "out").train()
    before = LlamaForCausalLM.from_pretrained(policy).lm_head.weight
    after = LlamaForCausalLM.from_pretrained(tmp_path / "out/run/iteration-000/policy").lm_head.weight
    assert torch.equal(seen[0], before) and torch.equal(seen[1], after) and not torch.equal(before, after)


def test_an_adapter_is_served_on_its_base(policy: str, log: Path, tmp_path: Path) -> None:
    more = {"peft_config": LoraConfig(r=4, task_type="CAUSAL_LM")}
    trainer_of(policy, tmp_path / "out", more=more).train()
    starts = [each["start"] for each in asked_of(log) if "start" in each]
    assert {(each["model"], each["enable_lora"], each["max_lora_rank"]) for each in starts} == {(policy, True, 8)}
    adapters = {each["adapter"] for each in asked_of(log) if "requests" in each}
    assert adapters == {str(tmp_path / "out/run/policy-to-sample")}


def test_temperatures_are_searched_by_the_engine_that_then_samples(policy: str, log: Path, tmp_path: Path) -> None:
    more = {"eval_dataset": ROWS[:3]}
    trainer_of(policy, tmp_path / "out", more=more, iterations=1, temperatures=[0.7, 1.0]).train()
    assert len([each for each in asked_of(log) if "start" in each]) == 1
    found = json.loads((tmp_path / "out/run/temperatures-000/temperature.json").read_text())
    assert found["version"].endswith("-vllm-float32")


def test_a_run_whose_engine_was_killed_goes_on_to_what_it_would_have_been(
    policy: str, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer_of(policy, tmp_path / "whole").train()
    fake_vllm(monkeypatch, log, generate="die")
    with pytest.raises(EngineError, match="vLLM ended with SIGKILL"):
        trainer_of(policy, tmp_path / "out").train()
    left = len(list(Pool(tmp_path / "out/run/pool").candidates()))
    assert 0 < left < 24
    fake_vllm(monkeypatch, log)
    trainer_of(policy, tmp_path / "out").train(resume_from_checkpoint=True)
    assert files_of(tmp_path / "out/run") == files_of(tmp_path / "whole/run")


def test_what_one_engine_has_sampled_is_not_gone_on_with_by_the_other(
    policy: str, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_vllm(monkeypatch, log, generate="die")
    with pytest.raises(EngineError):
        trainer_of(policy, tmp_path / "out").train()
    with pytest.raises(ValueError, match=r"engine.*vllm-float32.*prefopt"):
        trainer_of(policy, tmp_path / "out", use_vllm=False).train(resume_from_checkpoint=True)


def test_two_processes_have_an_engine_each_and_sample_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, engines = [], []
    for ranks in (1, 2):
        log = tmp_path / f"asked-{ranks}.jsonl"
        fake_vllm(monkeypatch, log)
        more = {"folder": str(tmp_path / str(ranks)), "use_vllm": True, "vllm_dtype": "float32", "iterations": 1}
        found.append(launch(ranks, "tests.helpers.programs.sampling_ranks", **more))
        engines.append(len([each for each in asked_of(log) if "start" in each]))
    assert [each["world"] for each in found] == [1, 2] and engines[1] == 2 * engines[0]
    assert found[0]["files"] == found[1]["files"] and found[0]["files"]
    assert found[0]["weights"] == pytest.approx(found[1]["weights"], abs=1e-9)


# What is refused before anything is sampled


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 2.5}, r"temperature=2.5: vLLM samples from 0.01 to 2"),
        ({"temperatures": [0.5, 3.0]}, r"temperature=3.0"),
        ({"source": "diverse-beam"}, r"vLLM has no diverse beam search"),
        ({"vllm_mode": "server"}, r"`server` needs a URL"),
        ({"vllm_server_base_url": "http://localhost:1", "vllm_mode": "colocate"}, r"`colocate` has none"),
        ({"vllm_server_base_url": "http://localhost:1", "vllm_python": "x"}, r"vllm_python is for engines"),
        ({"use_vllm": False, "vllm_dtype": "bfloat16"}, r"vllm_dtype='bfloat16' means nothing without use_vllm"),
        ({"vllm_dtype": "int8"}, r"vllm_dtype='int8': choose one of"),
        ({"vllm_gpu_memory_utilization": 1.5}, r"must lie in \(0, 1\]"),
    ],
    ids=str,
)
def test_settings_that_vllm_would_change_or_refuse_are_refused_at_once(
    policy: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        trainer_of(policy, tmp_path / "out", **changes)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases of the base model"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "another base"),
    ],
    ids=str,
)
def test_adapters_that_vllm_does_not_serve_are_refused_at_once(
    policy: str, tmp_path: Path, adapter: dict[str, Any], message: str
) -> None:
    config = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"], **adapter)
    with pytest.raises(ValueError, match=rf"the policy is an adapter with .*{message}.*leave out use_vllm"):
        trainer_of(policy, tmp_path / "out", more={"peft_config": config})


def test_a_dtype_that_vllm_does_not_compute_in_is_refused_at_once(tokenizer: Any, tmp_path: Path) -> None:
    more = {"processing_class": tokenizer}
    with pytest.raises(ValueError, match="vLLM does not compute in float64: set vllm_dtype"):
        trainer_of(tiny_llama(dtype=torch.float64), tmp_path / "out", more=more)  # type: ignore[arg-type]


def test_a_server_is_not_asked_for_weights_that_train(policy: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train an adapter \(use_peft\), or give vllm_python"):
        trainer_of(policy, tmp_path / "out", vllm_server_base_url="http://localhost:1")


def test_the_engine_is_a_setting_of_both_methods_and_off() -> None:
    for kind in (RejectionSamplingConfig, RRHFConfig):
        assert not kind(output_dir="x", use_cpu=True).use_vllm

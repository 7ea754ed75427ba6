"""A policy behind vLLM responds by the same call and rules. Against a stand-in that has vLLM's interface."""

from __future__ import annotations

import ast
import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import LlamaForCausalLM

import prefopt
from prefopt.candidates import Pool
from prefopt.candidates.generate import Origin, generate_into, sample_responses
from prefopt.data.encode import encode_prompt
from prefopt.generation import Sample, sample
from prefopt.generation._vllm_process import EngineProcess
from prefopt.generation.beams import beam_search
from prefopt.generation.vllm import VLLM
from prefopt.objectives.sampling_arguments import SamplingArguments
from tests.helpers.models import tiny_llama
from tests.helpers.vllm import LLM, SamplingParams, stand_in

QUESTIONS = ("法国的首都是哪里？", "What is 2 + 2?", "你好！怎么烤蛋糕？", "Hi")
PROMPTS = [[{"role": "user", "content": question}] for question in QUESTIONS]


@pytest.fixture(autouse=True)
def standing_in(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)


@pytest.fixture(scope="module")
def policy() -> LlamaForCausalLM:
    """In float64, where the order of a sum is far too small to move a token."""
    return tiny_llama(dtype=torch.float64)


@pytest.fixture(scope="module")
def folder(policy, tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    policy.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def served(folder: Path, standing_in: None) -> VLLM:
    return VLLM(folder)


def ids_of(found: list[list[Sample]]) -> list[list[list[int]]]:
    return [[response.ids for response in responses] for responses in found]


def logps_of(found: list[list[Sample]]) -> torch.Tensor:
    return torch.tensor([logp for row in found for one in row for logp in one.logps], dtype=torch.float64)


# The same rules as for a loaded model. Greedy, so that there is one right answer.


def assert_as_loaded(served: VLLM, policy: Any, tokenizer: Any, **settings: Any) -> list[list[Sample]]:
    expected = sample(policy, tokenizer, PROMPTS, temperature=0, **settings)
    found = sample(served, tokenizer, PROMPTS, temperature=0, **settings)
    assert found == expected
    torch.testing.assert_close(logps_of(found), logps_of(expected))
    return found


@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 0.5}, {"max_new_tokens": 1}], ids=str)
def test_greedy_responses_are_those_of_the_loaded_model(served, policy, tokenizer, settings: dict[str, Any]) -> None:
    found = assert_as_loaded(served, policy, tokenizer, k=2, **{"max_new_tokens": 12} | settings)
    if not settings:
        assert {one.finish_reason for row in found for one in row} >= {"length"}


def test_only_the_policys_stop_tokens_end_a_response(policy, tokenizer, tmp_path: Path) -> None:
    plain = sample(policy, tokenizer, PROMPTS, temperature=0, max_new_tokens=12)
    ending = copy.deepcopy(policy)
    ending.generation_config.eos_token_id = [plain[0][0].ids[3], plain[1][0].ids[5]]
    ending.generation_config.repetition_penalty = 1.5  # the checkpoint's own, which changes nothing
    ending.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with VLLM(tmp_path) as served:
        found = assert_as_loaded(served, ending, tokenizer, max_new_tokens=12)
        assert set(ending.generation_config.eos_token_id) < set(served.engine.llm.asked[0].stop_token_ids)
    assert found[0][0].finish_reason == found[1][0].finish_reason == "stop"
    assert found[0][0].ids == plain[0][0].ids[: len(found[0][0].ids)]


def test_stop_strings_end_a_response_and_leave_its_text(served, policy, tokenizer) -> None:
    plain = sample(policy, tokenizer, PROMPTS, temperature=0, max_new_tokens=12)
    strings = [row[0].text[5:7] for row in plain[:2]]
    found = assert_as_loaded(served, policy, tokenizer, max_new_tokens=12, stop_strings=strings)
    assert [row[0].finish_reason for row in found[:2]] == ["stop_string"] * 2
    assert all(string not in row[0].text for row in found for string in strings)


def test_our_rule_decides_where_vllm_sees_a_stop_string_early_or_late(served, policy, tokenizer, monkeypatch) -> None:
    plain = sample(policy, tokenizer, PROMPTS, temperature=0, max_new_tokens=12)
    string = plain[0][0].text[5:7]

    def early(self: LLM, prompt: Any, ids: list[int], text: str, settings: SamplingParams) -> tuple[Any, Any]:
        return ("stop", "none of ours") if len(ids) == 3 else real(self, prompt, ids, text, settings)

    def late(self: LLM, prompt: Any, ids: list[int], text: str, settings: SamplingParams) -> tuple[Any, Any]:
        return real(self, prompt, ids, "", settings)

    real = LLM._reason
    for wrong in (early, late):
        monkeypatch.setattr(LLM, "_reason", wrong)
        found = assert_as_loaded(served, policy, tokenizer, max_new_tokens=12, stop_strings=[string])
        assert found[0][0].finish_reason == "stop_string"


def test_an_adapter_is_served_on_its_base(policy, tokenizer, folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    config = LoraConfig(r=12, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(LlamaForCausalLM.from_pretrained(folder, dtype="auto"), config).to(torch.float64).eval()
    adapted.save_pretrained(tmp_path)
    with VLLM(tmp_path) as served:
        found = assert_as_loaded(served, adapted, tokenizer, max_new_tokens=8)
        assert served.engine.llm.room == 16
    assert found != sample(policy, tokenizer, PROMPTS, temperature=0, max_new_tokens=8)


# Sampling


def test_settings_reach_the_engine_as_they_are(served, policy, tokenizer) -> None:
    found = sample(served, tokenizer, PROMPTS, k=4, temperature=0.7, top_k=3, top_p=0.9, max_new_tokens=6)
    asked = served.engine.llm.asked[0]
    assert (asked.temperature, asked.top_k, asked.top_p, asked.max_tokens) == (0.7, 3, 0.9, 6)
    for one in (one for row in found for one in row):
        with torch.no_grad():
            logits = policy(input_ids=torch.tensor([one.prompt_ids + one.ids])).logits[0, len(one.prompt_ids) - 1 : -1]
        likeliest = logits.topk(3).indices
        assert all(token in row for token, row in zip(one.ids, likeliest.tolist(), strict=True))
        # The policy's own distribution: temperature 1, nothing cut.
        picked = logits.log_softmax(-1).gather(-1, torch.tensor(one.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(one.logps, dtype=torch.float64), picked)


def test_each_response_has_a_seed_of_its_own(served, tokenizer) -> None:
    found = sample(served, tokenizer, [PROMPTS[0], PROMPTS[0]], k=6, max_new_tokens=8)
    assert len({settings.seed for settings in served.engine.llm.asked}) == 12
    assert len({tuple(ids) for responses in ids_of(found) for ids in responses}) == 12


def test_responses_do_not_depend_on_the_other_prompts_or_on_k(served, tokenizer) -> None:
    def draw(prompts: list[Any], k: int, **changes: Any) -> list[list[Sample]]:
        return sample(served, tokenizer, prompts, k=k, max_new_tokens=8, **changes)

    found = draw(PROMPTS, 3, keys=list("abcd"))
    assert draw(PROMPTS, 2, keys=list("abcd"), batch_size=1) == [responses[:2] for responses in found]
    assert draw(PROMPTS[::-1], 3, keys=list("dcba")) == found[::-1]
    others = [draw(PROMPTS, 3, keys=list("abcd"), **new) for new in ({"seed": 1}, {"stream": (1,)}, {"stream": (0, 1)})]
    assert all(a != b for other in others for a, b in zip(found, other, strict=True))


def test_a_pool_is_filled(served, tokenizer, tmp_path: Path) -> None:
    pool, settings = Pool(tmp_path), SamplingArguments(responses_per_prompt=2, max_new_tokens=6)
    assert generate_into(pool, served, tokenizer, PROMPTS, settings, Origin("v", 3)) == 8
    drawn = sample_responses(served, tokenizer, PROMPTS, settings, Origin("v", 3))
    assert [list(each.ids or ()) for each in pool.candidates()] == [each.ids for row in drawn for each in row]
    assert generate_into(pool, served, tokenizer, PROMPTS, settings, Origin("v", 3)) == 0


def test_no_prompts_no_samples(served, tokenizer, capsys) -> None:
    assert sample(served, tokenizer, []) == []
    sample(served, tokenizer, PROMPTS, max_new_tokens=2, progress=True)
    assert "4/4" in capsys.readouterr().err


# What is refused


def test_the_engines_own_limit_is_the_context(served, folder: Path, tokenizer) -> None:
    size = len(encode_prompt(PROMPTS[0], tokenizer))
    with pytest.raises(ValueError, match="256 positions"):
        sample(served, tokenizer, PROMPTS[:1], max_new_tokens=257 - size)
    with VLLM(folder, max_model_len=size + 5) as short:
        [[found]] = sample(short, tokenizer, PROMPTS[:1], temperature=0, max_new_tokens=5)
        assert len(found.ids) == 5
        with pytest.raises(ValueError, match=f"prompt 0 .*max_new_tokens=6.*{size + 5} positions"):
            sample(short, tokenizer, PROMPTS[:1], max_new_tokens=6)


def test_a_temperature_that_vllm_would_change_is_refused(served, tokenizer) -> None:
    with pytest.raises(ValueError, match=r"temperature=0.005.*from 0.01 to 2"):
        sample(served, tokenizer, PROMPTS, temperature=0.005)
    with pytest.raises(ValueError, match=r"temperature=2.5.*from 0.01 to 2"):
        sample(served, tokenizer, PROMPTS, temperature=2.5)


def changed(**values: Any) -> Any:
    def change(found: list[Any]) -> list[Any]:
        vars(found[1]).update(values)
        return found

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(finish_reason="abort"), "response 1 to prompt 0 with 'abort'"),
        (changed(logprobs=None), "response 1 to prompt 0 without its log-probs"),
        (changed(token_ids=[], logprobs=[]), "response 1 to prompt 0 after 0 tokens with 'length'"),
        (lambda found: found[:-1], "7 responses to 8 requests"),
    ],
    ids=["aborted", "no log-probs", "cut short", "too few"],
)
def test_answers_that_are_none_are_refused(served, tokenizer, change: Any, message: str) -> None:
    served.engine.llm.change = change  # of request 1, to the longest prompt
    with pytest.raises(RuntimeError, match=message):
        sample(served, tokenizer, PROMPTS, k=2, temperature=0, max_new_tokens=4)


def test_what_only_a_loaded_model_can_do_says_so(served, tokenizer) -> None:
    with pytest.raises(AttributeError, match="responds by `sample`.*load the model"):
        beam_search(served, tokenizer, PROMPTS, max_new_tokens=2)


def test_a_closed_engine_is_free_and_responds_no_more(folder: Path, tokenizer) -> None:
    served = VLLM(folder)
    engine: Any = served.engine
    served.close()
    served.close()
    assert engine.closed == 1
    with pytest.raises(ValueError, match="this VLLM is closed"):
        sample(served, tokenizer, PROMPTS)


def test_adapters_that_vllm_cannot_serve_are_refused(policy, tmp_path: Path) -> None:
    config = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    get_peft_model(copy.deepcopy(policy), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="PROMPT_TUNING.*vLLM serves LoRA"):
        VLLM(tmp_path)


def test_without_vllm_the_message_says_what_to_install(
    folder: Path, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefopt.generation.vllm.EngineProcess", EngineProcess)
    with (
        VLLM(folder, python=sys.executable) as served,
        pytest.raises(ImportError, match=r"pip install 'prefopt\[vllm\]'.*vllm_python"),
    ):
        sample(served, tokenizer, PROMPTS, max_new_tokens=2)


def test_only_making_a_vllm_imports_it() -> None:
    for path in Path(prefopt.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {id(x) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for x in ast.walk(f)}
        at_once = [node for node in ast.walk(tree) if id(node) not in inside]
        names = [alias.name for node in at_once if isinstance(node, ast.Import) for alias in node.names]
        names += [str(node.module) for node in at_once if isinstance(node, ast.ImportFrom) and not node.level]
        assert not [name for name in names if name.split(".")[0] == "vllm"], path

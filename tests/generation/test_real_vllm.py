"""The real vLLM, in an environment of its own: `make test-vllm` makes one, and says in the environment where it is.

PREFOPT_VLLM_PYTHON   the Python of an environment that has vLLM
PREFOPT_MODEL         the folder of a small chat model, such as SmolLM2-135M-Instruct
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prefopt.candidates import Pool
from prefopt.compare.measure.responses import token_logps
from prefopt.generation import VLLM, Sample, sample
from prefopt.models.load import load_policy, load_tokenizer
from tests.helpers.models import tiny_llama

PYTHON, MODEL = os.environ.get("PREFOPT_VLLM_PYTHON", ""), os.environ.get("PREFOPT_MODEL", "")
QUESTIONS = (
    "What is 2 + 2?",
    "法国的首都是哪里？",
    "Name three colours.",
    "Who wrote Hamlet?",
    "Hi",
    "Why is it dark?",
)
PROMPTS = [[{"role": "user", "content": question}] for question in QUESTIONS]
ENGINE = {"max_model_len": 512, "gpu_memory_utilization": 0.15}
FLAGS = [
    "--use_vllm",
    "--vllm_python",
    PYTHON,
    "--vllm_max_model_length",
    "512",
    "--vllm_gpu_memory_utilization",
    "0.15",
]

pytestmark = pytest.mark.skipif(not (PYTHON and MODEL), reason="PREFOPT_VLLM_PYTHON and PREFOPT_MODEL: make test-vllm")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(MODEL)


@pytest.fixture(scope="module")
def policy() -> Any:
    return load_policy(MODEL, dtype="float32").eval()


@pytest.fixture(scope="module")
def served() -> Iterator[VLLM]:
    with VLLM(MODEL, python=PYTHON, dtype="float32", **ENGINE) as engine:
        yield engine


def logps_of(policy: Any, samples: list[list[Sample]]) -> torch.Tensor:
    """Each token's log-prob by the trainer's forward pass: [tokens]."""
    rows = [{"prompt_ids": row[0].prompt_ids, "response_ids": [one.ids for one in row]} for row in samples]
    known, mask = token_logps(policy, rows)
    return known[mask]


def said_of(samples: list[list[Sample]]) -> torch.Tensor:
    """Each token's log-prob as vLLM says it: [tokens]."""
    return torch.tensor([logp for row in samples for one in row for logp in one.logps], dtype=torch.float64)


def test_log_probs_are_those_of_the_trainers_forward_pass_in_float32(served: VLLM, policy: Any, tokenizer: Any) -> None:
    found = sample(served, tokenizer, PROMPTS, k=2, max_new_tokens=32, temperature=0.7, top_k=50)
    off = (said_of(found) - logps_of(policy, found)).abs()
    print(f"float32: {len(off)} log-probs, mean difference {off.mean():.2e}, largest {off.max():.2e}")
    assert len(off) > 100 and off.max() < 1e-4


def test_log_probs_in_bfloat16_are_off_by_rounding_alone(policy: Any, tokenizer: Any) -> None:
    """Their mean is right, and they are as near to float32's as the trainer's own in bfloat16 are."""
    with VLLM(MODEL, python=PYTHON, dtype="bfloat16", **ENGINE) as served:
        found = sample(served, tokenizer, PROMPTS, k=8, max_new_tokens=32)
    ours = logps_of(load_policy(MODEL, dtype="bfloat16").eval(), found)
    exact, said = logps_of(policy, found), said_of(found)
    mean, off, own = (said - ours).mean(), (said - exact).abs().mean(), (ours - exact).abs().mean()
    print(f"bfloat16: {len(said)} log-probs, mean difference {mean:.2e}; from float32's {off:.2e}, trainer's {own:.2e}")
    assert len(said) > 1000 and abs(mean) < 0.005 and off < 2 * own


def test_a_seeds_text_depends_neither_on_order_nor_on_company(served: VLLM, tokenizer: Any) -> None:
    names = [str(number) for number in range(len(PROMPTS))]
    found = sample(served, tokenizer, PROMPTS, k=4, max_new_tokens=48, keys=names)
    assert sample(served, tokenizer, PROMPTS[::-1], k=4, max_new_tokens=48, keys=names[::-1]) == found[::-1]
    for number in range(len(PROMPTS)):
        alone = sample(served, tokenizer, PROMPTS[number : number + 1], k=1, max_new_tokens=48, keys=names[number:][:1])
        assert alone[0] == found[number][:1]
    assert len({one.text for row in found for one in row}) > 12


def test_greedy_responses_are_those_of_prefopts_own_engine(served: VLLM, policy: Any, tokenizer: Any) -> None:
    for more in ({}, {"stop_strings": [".", "。"]}, {"repetition_penalty": 1.3}):
        settings: dict[str, Any] = {"temperature": 0, "max_new_tokens": 32, **more}
        assert sample(served, tokenizer, PROMPTS, **settings) == sample(policy, tokenizer, PROMPTS, **settings), more


def test_a_model_that_vllm_cannot_compute_is_refused_before_it_is_loaded(shared_tokenizer: Any, tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    shared_tokenizer.save_pretrained(tmp_path)
    with (
        VLLM(tmp_path, python=PYTHON, dtype="float32", max_model_len=64) as served,
        pytest.raises(ValueError, match="vLLM cannot serve this policy: .*heads have 8 numbers"),
    ):
        sample(served, shared_tokenizer, PROMPTS, max_new_tokens=4)


def test_the_engine_ends_with_a_parent_that_is_killed() -> None:
    program = (
        "import sys; from prefopt.generation._vllm_process import EngineProcess\n"
        f"engine = EngineProcess({PYTHON!r}, {MODEL!r}, None, {{'dtype': 'float32', 'max_model_len': 512, "
        "'gpu_memory_utilization': 0.15})\n"
        "print(engine.process.pid, flush=True)\n"
        "engine.respond([dict(prompt_token_ids=[5] * 9, seed=1, max_tokens=400, ignore_eos=True, logprobs=0)] * 64)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    group = int(parent.stdout.readline())
    time.sleep(2)
    parent.kill()
    parent.wait()
    for _ in range(300):
        if not _in_group(group):
            return
        time.sleep(0.1)
    pytest.fail(f"left of the engine: {_in_group(group)}")


def _in_group(group: int) -> list[str]:
    """Processes of a group that are no zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(path.parent.name)
    return found


# One iteration, by the command line


def rows_in(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    rows = [{"prompt": prompt, "chosen": "A short and kind answer.", "rejected": "No."} for prompt in PROMPTS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "own_scorer.py").write_text(
        "def short(prompts, responses):\n    return [-len(r) / 9 for r in responses]\n"
    )
    return path


@pytest.mark.parametrize("method", ["rejection-sampling", "rrhf"])
def test_an_iteration_by_the_command_line_samples_trains_and_evaluates(method: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    adapter = ["--use_peft", "--lora_r", "8"] if method == "rrhf" else []
    command = [sys.executable, "-m", "prefopt", method, "--model_name_or_path", MODEL, "--dataset_name"]
    command += [str(rows_in(tmp_path)), "--eval_dataset", str(tmp_path / "rows.jsonl"), "--scorer", "own_scorer:short"]
    command += ["--output_dir", str(out), "--use_cpu", "--iterations", "1", "--responses_per_prompt", "4"]
    command += ["--max_new_tokens", "48", "--per_device_train_batch_size", "2", "--max_length", "256", *adapter, *FLAGS]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    sampled = [each for each in Pool(out / "pool").candidates() if each.ids]
    assert len(sampled) == 4 * len(PROMPTS)
    assert all(each.policy.endswith("-vllm-float32") and each.ids for each in sampled)
    report = json.loads((out / "iteration-000/report.json").read_text())
    assert report["rows"] >= 1 and report["steps"] >= 1
    evaluated = json.loads((out / "eval_results.json").read_text())
    assert evaluated["eval_response_length"] > 0
    load_policy(str(out))  # what was trained loads again


def test_sigterm_ends_a_run_and_its_engine(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prefopt", "best-of-n", "--model_name_or_path", MODEL, "--dataset_name"]
    command += [str(rows_in(tmp_path)), "--scorer", "own_scorer:short", "--output_dir", str(tmp_path / "out")]
    command += ["--responses_per_prompt", "64", "--max_new_tokens", "400", *FLAGS]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    assert run.stderr is not None
    for line in run.stderr:
        if "vLLM is loading" in line:
            break
    engine = next(pid for pid in _children(run.pid) if PYTHON in Path(f"/proc/{pid}/cmdline").read_text())
    time.sleep(5)
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=120)
    assert run.returncode == 143 and _in_group(engine) == []


def _children(parent: int) -> list[int]:
    stats = {int(path.parent.name): path.read_text() for path in Path("/proc").glob("[0-9]*/stat")}
    return [pid for pid, stat in stats.items() if int(stat.rpartition(")")[2].split()[1]) == parent]

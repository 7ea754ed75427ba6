"""Commands that sample by vLLM, from flags to files on disk, and how they go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefopt.candidates import Pool
from tests.helpers.commands import TRAINED, asked, error_of, run
from tests.helpers.vllm import asked_of, fake_vllm
from tests.helpers.vllm_server import fake_server

DRAWN: list[object] = ["--responses_per_prompt", "4", "--max_new_tokens", "12", "--scorer", "judges:vowels"]

pytestmark = pytest.mark.usefixtures("in_sampling_folder")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_vllm(monkeypatch, tmp_path / "asked.jsonl")
    return tmp_path / "asked.jsonl"


def starts(log: Path) -> int:
    return sum("start" in each for each in asked_of(log))


def test_best_of_n_starts_one_engine_and_none_where_all_is_there(
    tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = asked("best-of-n", tmp_path / "out", *DRAWN, rows="prompts.jsonl")
    by_vllm = [*command, "--use_vllm", "--vllm_dtype", "float32"]
    assert run(*by_vllm) == 0
    assert starts(log) == 1 and asked_of(log)[0]["start"]["model"] == "model"
    before = (tmp_path / "out/responses.jsonl").read_bytes()
    assert run(*by_vllm) == 0
    assert starts(log) == 1 and (tmp_path / "out/responses.jsonl").read_bytes() == before
    assert "vllm-float32" in error_of(capsys, *command)  # the responses there are not those of prefopt's engine


def test_pairs_of_self_rejected_are_sampled_by_it_too(tmp_path: Path, log: Path) -> None:
    assert run(*asked("self-rejected", tmp_path / "out", "--max_new_tokens", "12", "--use_vllm")) == 0
    assert starts(log) == 1 and (tmp_path / "out/pairs.jsonl").stat().st_size > 0


def test_a_server_samples_for_best_of_n(tmp_path: Path) -> None:
    with fake_server("model") as server:
        more = ["--use_vllm", "--vllm_server_base_url", server.url]
        assert run(*asked("best-of-n", tmp_path / "out", *DRAWN, *more, rows="prompts.jsonl")) == 0
        count = len(server.bodies)
    sampled = list(Pool(tmp_path / "out/pool").candidates())
    assert len(sampled) == count > 0 and all(each.policy.endswith("-vllm-server") for each in sampled)


def test_an_iteration_of_rejection_sampling_trains_on_what_it_sampled(tmp_path: Path, log: Path) -> None:
    more = [*DRAWN, *TRAINED, "--save_strategy", "no", "--iterations", "1", "--use_vllm"]
    assert run(*asked("rejection-sampling", tmp_path / "out", *more, rows="prompts.jsonl")) == 0
    assert starts(log) >= 1
    report = json.loads((tmp_path / "out/iteration-000/report.json").read_text())
    assert report["policy"].endswith("-vllm-float32") and report["steps"] >= 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--use_vllm", "--temperature", "3"], "temperature=3.0: vLLM samples from 0.01 to 2"),
        (["--vllm_python", "python"], "vllm_python='python' means nothing without use_vllm"),
        (["--use_vllm", "--source", "diverse-beam"], "vLLM has no diverse beam search"),
        (["--use_vllm", "--load_in_4bit"], "use_vllm: vLLM would serve the policy unquantised"),
        (["--use_vllm", "--vllm_python", "nowhere/python"], "vllm_python=nowhere/python: No such file"),
        (["--vllm_server_host", "there"], "vllm_server_base_url=http://HOST:PORT"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said_in_a_sentence(
    tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_of(capsys, *asked("best-of-n", tmp_path / "out", *DRAWN, *more, rows="prompts.jsonl"))


def test_without_vllm_the_command_says_what_to_install(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of(capsys, *asked("best-of-n", tmp_path / "out", *DRAWN, "--use_vllm", rows="prompts.jsonl"))
    assert "vLLM is not installed for" in said and "pass that environment's Python as vllm_python" in said


def test_an_engine_that_fails_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_vllm(monkeypatch, tmp_path / "asked.jsonl", generate="fail")
    said = error_of(capsys, *asked("best-of-n", tmp_path / "out", *DRAWN, "--use_vllm", rows="prompts.jsonl"))
    assert "vLLM ended with status 1" in said and "the cache of keys and values is full" in said
    assert "Traceback (most recent call last):" in said  # the engine's own, which is quoted

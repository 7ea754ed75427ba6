"""`prefopt chat`, `merge` and `info`: what a first day asks of what was trained."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from prefopt.candidates.candidate import Candidate
from prefopt.candidates.pool import Pool
from prefopt.cli import folders
from prefopt.cli.chat import Chat, Growing
from prefopt.cli.info import _by_name
from prefopt.generation.stopping import SequenceState
from prefopt.models import load_scorer
from prefopt.utils import jsonl
from tests.helpers.commands import TRAINED, asked, error_of, run
from tests.helpers.processes import launch
from tests.helpers.tokenizers import CHATML, make_tokenizer


@pytest.fixture(scope="module")
def outputs(sampling_folder: Path) -> Iterator[Path]:
    """The folder with a policy's adapter, a reward model's adapter and a plain reward model beside its files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(sampling_folder)
        lora = ["--use_peft", "--lora_r", "4", "--learning_rate", "0.1", "--max_steps", "3"]
        assert run(*asked("dpo", Path("dpo"), *TRAINED, *lora)) == 0
        assert run(*asked("reward", Path("rm-lora"), *TRAINED, *lora)) == 0
        assert run(*asked("reward", Path("rm"), *TRAINED, "--max_steps", "1", "--save_strategy", "no")) == 0
        yield sampling_folder


@pytest.fixture(autouse=True)
def _there(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(outputs)


# ---- in a process of their own ---------------------------------------------------------------------------------------


def test_a_first_day(outputs: Path, tmp_path: Path) -> None:
    """What the summary of a training says to do, as it stands there."""
    dpo, merged = str(outputs / "dpo"), str(tmp_path / "merged")
    ask = ["chat", "--max_new_tokens", "8", "--temperature", "0"]
    commands = [
        {"argv": [*ask, dpo, "--prompt", "你好"]},
        {"argv": [*ask, dpo], "given": "你好\n"},
        {"argv": ["merge", dpo, "--output_dir", merged]},
        {"argv": [*ask, merged, "--prompt", "你好"]},
        {"argv": [*ask, "--temperature", "1", merged, "--prompt", "你好"]},
        {"argv": ["info", dpo]},
        {"argv": ["info", "--json"]},
        {"argv": [*ask, str(outputs / "rm"), "--prompt", "x"]},
    ]
    once, piped, merging, again, sampled, info, installed, refused = launch(
        1, "tests.helpers.programs.commands", commands=commands
    )
    assert [each["status"] for each in (once, piped, merging, again, sampled, info, installed)] == [0] * 7
    assert once["out"] == piped["out"] == again["out"] != sampled["out"] and once["out"].endswith("\n")
    assert merging["out"] == f"{merged}: a plain model, whose logits are those of {dpo}\n"
    assert "trained" in info["out"] and f"prefopt doctor {dpo}" in info["out"]
    assert json.loads(installed["out"])["torch"] == torch.__version__
    assert refused["status"] == 2 and "is a reward model, which scores answers and gives none" in refused["err"]


# ---- chat ------------------------------------------------------------------------------------------------------------


def test_a_conversation_goes_on_and_begins_anew() -> None:
    asked_of: list[tuple[list[str], int]] = []

    def answer(turns: list[dict[str, str]], number: int, show: Any) -> str:
        if "too long" in turns[-1]["content"]:
            raise ValueError("no room")
        asked_of.append(([turn["content"] for turn in turns], number))
        return f"answer {number}"

    chat = Chat(answer, "be brief")
    chat.ask("one", print)
    chat.ask("two", print)
    with pytest.raises(ValueError, match="no room"):
        chat.ask("too long", print)
    assert chat.take_back() == "two"
    chat.ask("two", print)
    assert asked_of == [
        (["be brief", "one"], 0),
        (["be brief", "one", "answer 0", "two"], 1),
        (["be brief", "one", "answer 0", "two"], 2),
    ]
    chat.turns = []
    assert chat.take_back() is None


def test_words_of_a_conversation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = iter(["", "hello", "/nonsense", "/again", "/new", "/again", "hello " * 300, "/quit", "never read"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    monkeypatch.setattr(sys, "stdin", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    assert run("chat", "model", "--max_new_tokens", "4", "--seed", "3") == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 2, "two answers, to hello and again to it"
    assert "unknown /nonsense; /new begins a new conversation" in said.err and "positions" in said.err
    assert next(lines) == "never read"


def test_what_is_shown_grows_by_whole_characters_and_is_the_answer() -> None:
    tokenizer = make_tokenizer(CHATML)
    text = "面包是 ready\n\nHu, not a turn \x1b[2J"
    shown: list[str] = []
    growing = Growing(lambda ids: str(tokenizer.decode(ids)), shown.append)
    state = SequenceState(0, 0, [], ())
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        state.ids.append(token)
        growing(state)
    assert len(shown) > 4 and all("\N{REPLACEMENT CHARACTER}" not in part for part in shown)
    growing.end(text)
    assert "".join(shown) == text.replace("\x1b", "\\x1b") + "\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nowhere/at/all"], "nowhere/at/all: no such folder"),
        (["nowhere/"], "no such folder, and no hub id, which is owner/name"),
        (["pairs.jsonl"], "pairs.jsonl: holds no model"),
        (["."], "holds no model, which would have a config.json or an adapter_config.json"),
        (["model", "--temperature", "-1"], "temperature"),
        (["model", "--dtype", "float13"], "float13"),
    ],
)
def test_chat_says_what_is_wrong(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in error_of(capsys, "chat", *argv, "--prompt", "x")


def test_an_empty_prompt_is_refused_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert "the prompt is empty" in error_of(capsys, "chat", "model", "--prompt", " ")


def test_a_run_without_a_model_yet_names_its_newest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert f"has is {tmp_path}/checkpoint-10: give that one" in error_of(capsys, "chat", tmp_path, "--prompt", "x")


# ---- merge -----------------------------------------------------------------------------------------------------------


def test_a_merged_policy_says_what_the_adapted_one_says(tmp_path: Path) -> None:
    assert run("merge", "dpo", "--output_dir", tmp_path / "merged") == 0
    ids = torch.arange(3, 40)[None]
    adapted = AutoPeftModelForCausalLM.from_pretrained("dpo", dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    base = AutoModelForCausalLM.from_pretrained("model", dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4)
        assert (merged(ids).logits - base(ids).logits).abs().max() > 0.01, "the adapter does something"
    record = json.loads((tmp_path / "merged/prefopt.json").read_text())
    assert (record["merged_from"], record["adapter"], record["method"]) == ("dpo", None, "DPO")
    assert "prefopt merge" not in (tmp_path / "merged/README.md").read_text()


def test_a_merged_reward_model_is_a_plain_classification_model(tmp_path: Path) -> None:
    assert run("merge", "rm-lora", "--output_dir", tmp_path / "merged") == 0
    ids = torch.arange(3, 40)[None]
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        expected = load_scorer("rm-lora").eval()(ids).logits
        torch.testing.assert_close(plain(ids).logits, expected, atol=1e-4, rtol=1e-4)


def test_merging_into_four_bits_dequantises_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run("merge", "dpo", "--output_dir", tmp_path / "merged", "--load_in_4bit") == 0
    assert "dequantised to torch.bfloat16: logits of up to" in caplog.text
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert config["dtype"] == "bfloat16" and "quantization_config" not in config


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["model", "--output_dir", "new"], "model holds no adapter, which would have an adapter_config.json"),
        (["dpo", "--output_dir", "rm"], "--output_dir rm is not empty"),
        (["nowhere/", "--output_dir", "new"], "no such folder"),
    ],
)
def test_merge_says_what_is_wrong(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in error_of(capsys, "merge", *argv)
    assert not Path("new").exists()


# ---- info ------------------------------------------------------------------------------------------------------------


def info(capsys: pytest.CaptureFixture[str], folder: object) -> dict[str, str]:
    capsys.readouterr()
    assert run("info", folder, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_info_of_a_finished_run_and_of_one_that_is_not(capsys: pytest.CaptureFixture[str], outputs: Path) -> None:
    before = sorted((str(path), path.stat().st_mtime_ns) for path in outputs.rglob("*"))
    found = info(capsys, "dpo")
    assert (found["folder"], found["steps"], found["model"]) == ("dpo: a finished training", "3 of 3", "dpo")
    assert found["trained"].startswith("DPO, a policy, with prefopt") and "loss" in found["last logged"]
    assert found["go on"] == "the training command with --resume_from_checkpoint true"
    assert info(capsys, "rm")["trained"].startswith("Reward, a reward model")
    assert info(capsys, "model")["folder"] == "model: a model"
    assert sorted((str(path), path.stat().st_mtime_ns) for path in outputs.rglob("*")) == before, "nothing is changed"


def test_info_of_a_run_that_was_killed(
    capsys: pytest.CaptureFixture[str], outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoint-3").symlink_to(outputs / "dpo/checkpoint-3")
    (tmp_path / "run/.lock").touch()
    node = (tmp_path / "run/.lock").stat()
    locks = tmp_path / "locks"
    locks.write_text("1: FLOCK  ADVISORY  WRITE 1 00:00:1 0 EOF\n")
    monkeypatch.setattr(folders, "LOCKS", locks)
    found = info(capsys, tmp_path / "run")
    assert (
        found["folder"].endswith("run: a training that is not finished")
        and found["now"] == "no program on this machine writes here"
    )

    place = f"{os.major(node.st_dev):02x}:{os.minor(node.st_dev):02x}:{node.st_ino}"
    locks.write_text(f"1: FLOCK  ADVISORY  WRITE 1 {place} 0 EOF\n")
    assert info(capsys, tmp_path / "run")["now"] == "a program writes here"
    monkeypatch.setattr(folders, "LOCKS", tmp_path / "no locks")
    assert info(capsys, tmp_path / "run")["now"].endswith("a program writes here, or was killed")


def test_info_of_a_pool_a_comparison_and_rounds(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    turns = ({"role": "user", "content": "问"},)
    Pool(tmp_path / "pool").append(
        Candidate(0, 0, k, turns, f"answer {k}", "length" if k else "stop", "p1", 1.0, 0) for k in range(3)
    )
    found = info(capsys, tmp_path / "pool")
    assert found["responses"] == "3 to 1 prompts, by 1 policies, 2 cut off" and found["scored by"] == "nobody yet"
    for name, plan in {
        "comparison": {"policy": "m", "methods": {"dpo": {}, "sft": {}}, "seeds": [0, 1]},
        "rounds": {"policy": "m", "round": {}, "rounds": 2},
    }.items():
        for task, file in (("train-a", "done.json"), ("train-b", "failed.json")):
            folder = tmp_path / name / "tasks" / task
            folder.mkdir(parents=True)
            jsonl.replace(folder / file, [{"reason": "no room"}])
        (tmp_path / name / "plan.yaml").write_text(yaml.safe_dump(plan))
        (tmp_path / name / "report").mkdir()
        (tmp_path / name / "report/report.html").touch()
        found = info(capsys, tmp_path / name)
        assert found["folder"].endswith(name if name == "rounds" else "a comparison")
        assert (found["stages"], found["failed"]) == ("1 done, 1 failed", "train-b: no room")
        assert found["report"].endswith("report.html")
    assert found["versions"] == "none yet"


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("nowhere", "nowhere: no such folder"),
        ("pairs.jsonl", "`prefopt data check pairs.jsonl` says what rows it holds"),
        (".", "nothing that prefopt has written, and no model; it has "),
    ],
)
def test_info_says_what_is_wrong(folder: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in error_of(capsys, "info", folder)


def test_a_damaged_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "trainer_state.json").write_text("{")
    assert "trainer_state.json: not JSON" in error_of(capsys, "info", tmp_path)
    (tmp_path / "plan.yaml").write_text("a: [")
    assert "plan.yaml: not YAML" in error_of(capsys, "info", tmp_path)


def test_lines_of_one_name_are_a_list_in_json() -> None:
    lines = [("model", "policy"), ("method", "PPO"), ("model", "critic")]
    assert _by_name(lines) == {"model": ["policy", "critic"], "method": "PPO"}

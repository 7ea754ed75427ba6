"""Planted secrets: no byte that a command writes, logs or prints holds one."""

from __future__ import annotations

import json
import logging
import pickle
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from prefopt import cli
from prefopt.compare.report import write
from prefopt.tasks import Schedule, Task, in_order
from prefopt.tasks.worker import run_task, set_up_process
from prefopt.training.trainers import DPOConfig
from prefopt.utils import secrets
from tests.helpers.commands import TRAINED

PLANTED = {
    name: f"planted-{name.lower().replace('_', '-')}-{number}{number}"
    for number, name in enumerate(
        ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "COMET_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD"]
    )
}
PROXY = "planted-proxy-password"
HUB, INIT, NESTED = "planted-hub-token", "planted-init-token", "planted-nested-password"


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Secrets in every variable of the environment that takes one; all that are searched for."""
    monkeypatch.setattr(secrets, "_remembered", set())
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{PROXY}@localhost:9")
    handlers = list(logging.getLogger().handlers)
    yield [*PLANTED.values(), PROXY, HUB, INIT, NESTED]
    for handler in set(logging.getLogger().handlers) - set(handlers):
        logging.getLogger().removeHandler(handler)


def program(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of the program itself, which guards its streams."""
    monkeypatch.setattr(sys, "argv", ["prefopt", *map(str, words)])
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # put back afterwards
    try:
        return cli.main()
    except SystemExit as ending:
        return int(ending.code or 0)


def holding(folder: Path, values: list[str]) -> list[tuple[str, str]]:
    """Every file below a folder that holds one of the values, with the value."""
    return [
        (str(path.relative_to(folder)), value)
        for path in folder.rglob("*")
        if path.is_file()
        for value in values
        if value.encode() in path.read_bytes()
    ]


@pytest.mark.usefixtures("in_sampling_folder")
def test_train_writes_and_prints_none(
    planted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Tokens in every argument that takes one, given by flag, by JSON and by a file; checkpoints too."""
    init = {"token": INIT, "storage": {"password": NESTED}}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"hub_token": HUB, "report_to": "none"}))
    words = ["dpo", "--model_name_or_path", "model", "--dataset_name", "pairs.jsonl", "--output_dir", tmp_path / "out"]
    words += ["--config", config, "--model_init_kwargs", json.dumps({"token": INIT}), *TRAINED]
    words += ["--max_steps", 2, "--save_steps", 1, "--log_level", "info"]
    assert program(monkeypatch, *words) == 0
    said = "".join(capfd.readouterr())
    assert "training is done" in said and (tmp_path / "out/checkpoint-1/training_args.bin").is_file()
    assert holding(tmp_path / "out", planted) == [] and not [value for value in planted if value in said]
    # What a search of bytes could miss: the arguments as they are read again.
    args = torch.load(tmp_path / "out/training_args.bin", weights_only=False)
    assert args.hub_token is None and "token" not in args.model_init_kwargs and args.max_steps == 2

    args = DPOConfig(output_dir=str(tmp_path), use_cpu=True, hub_token=HUB, model_init_kwargs=init, report_to="none")
    forms = [str(args), repr(args), args.to_json_string(), str(args.to_sanitized_dict()), repr(pickle.dumps(args))]
    assert not [(value, form) for form in forms for value in planted if value in form]
    assert args.hub_token == HUB and args.init_kwargs["token"] == INIT  # which they are there for


@pytest.mark.usefixtures("in_sampling_folder")
@pytest.mark.parametrize(
    "words",
    [
        ["--hub_token", HUB, "--beta", HUB],
        ["--model_init_kwargs", json.dumps({"token": INIT}), "--beta", INIT],
        ["--eval_dataset", f"http://me:{PROXY}@host/rows.jsonl"],
        ["--eval_dataset", f"./{PLANTED['MY_PASSWORD']}.jsonl"],
    ],
)
def test_no_error_shows_one(
    words: list[str],
    planted: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    base = ["dpo", "--model_name_or_path", "model", "--dataset_name", "pairs.jsonl", "--output_dir", tmp_path / "out"]
    assert program(monkeypatch, *base, *TRAINED, *words) == 2
    said = "".join(capfd.readouterr())
    assert "error:" in said and secrets.MARK in said and not [value for value in planted if value in said]


def test_a_traceback_shows_none(
    planted: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One of a fault that no command expects, as Python prints it."""
    assert program(monkeypatch, "--version") == 0
    try:
        raise RuntimeError(f"sent {PLANTED['WANDB_API_KEY']} to http://me:{PROXY}@host")
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    said = capfd.readouterr().err
    assert "RuntimeError: sent [secret] to http://[secret]@host" in said
    assert not [value for value in planted if value in said]


COMPARED = {
    "policy": "testbed",
    "data": {"train": "testbed", "train_rows": 24},
    "sft": {"max_steps": 1, "hub_token": HUB},
    "training": {"per_device_train_batch_size": 8, "max_length": 128, "bf16": False, "hub_token": HUB},
    "methods": {"leaky": {"method": "leaky:leaky", "max_steps": 1, "hub_token": HUB}},
    "evaluation": {"prompts": 4, "pairs": 4, "responses_per_prompt": 1, "max_new_tokens": 4, "curve_points": 0},
    "judges": [],
}
LEAKY = """\
import os
from prefopt import DPO

class Leaky(DPO):
    def loss(self, out, batch):
        print("printed", os.environ["HF_TOKEN"])
        raise RuntimeError("sent " + os.environ["MY_PASSWORD"] + " to " + os.environ["HTTPS_PROXY"])

NAMES = {"leaky": Leaky()}
"""


def one_by_one(out: Path, tasks: Iterable[Task]) -> None:
    """Each task whose needs are done, in this process: what it writes is the same, and it is imported already."""
    for task in in_order(tasks):
        if all(needed.result(out) for needed in task.dependencies()):
            run_task(task, out, 30)


def test_the_processes_of_a_comparison_guard_what_they_print(
    planted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    monkeypatch.setattr("datasets.disable_progress_bars", lambda: None)
    monkeypatch.setattr("transformers.utils.logging.disable_progress_bar", lambda: None)
    monkeypatch.setattr(logging, "basicConfig", lambda **how: None)
    for name in ("PREFOPT_CACHE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "")
    set_up_process(tmp_path, torch.get_num_threads(), None, {})
    assert isinstance(sys.stdout, secrets.GuardedStream) and isinstance(sys.stderr, secrets.GuardedStream)


def test_a_comparison_and_its_report_hold_none(
    planted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A method of a user's prints, logs and raises secrets: they reach neither the log nor the report."""
    monkeypatch.setattr(write, "write_figures", lambda *arguments: {})  # pictures, which take longest
    monkeypatch.setattr(Schedule, "run", lambda run, tasks: one_by_one(run.out, tasks))
    (tmp_path / "leaky.py").write_text(LEAKY)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(COMPARED))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert program(monkeypatch, "compare", "plan.yaml", "--output_dir", tmp_path / "out") == 1
    said, out = "".join(capfd.readouterr()), tmp_path / "out"
    assert "printed [secret]" in said and next(out.glob("train/leaky*/failed.json")).is_file()
    report = (out / "report/report.md").read_text()
    assert "sent [secret] to http://[secret]@localhost:9" in report.replace("\\", "")
    assert (out / "train").is_dir() and (out / "report/report.html").is_file()
    assert holding(out, planted) == [] and not [value for value in planted if value in said]
    copy = yaml.safe_load((out / "plan.yaml").read_text())
    assert copy["sft"]["hub_token"] == copy["training"]["hub_token"] == secrets.MARK
    # The copy is not carried out without them.
    assert program(monkeypatch, "compare", out / "plan.yaml", "--output_dir", tmp_path / "again") == 2
    assert "methods: leaky: hub_token: [secret] stands for a secret" in capfd.readouterr().err


def test_the_search_finds_what_there_is(tmp_path: Path) -> None:
    torch.save({"a": ["planted"]}, tmp_path / "x.bin")
    assert holding(tmp_path, ["planted", "absent"]) == [("x.bin", "planted")]

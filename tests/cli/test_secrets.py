"""Planted secrets: no byte that a command writes, logs or prints holds one."""

from __future__ import annotations

import gzip
import json
import logging
import pickle
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from prefopt import cli
from prefopt.compare.report import write
from prefopt.scoring import scorer_from
from prefopt.tasks import Schedule, Task, in_order
from prefopt.tasks.worker import run_task, set_up_process
from prefopt.training.trainers import DPOConfig
from prefopt.utils import secrets
from tests.helpers.commands import TRAINED
from tests.helpers.planted import BODY, HUB, INIT, NESTED, PROXY, UNTOLD, VARIABLES, holding, shown
from tests.helpers.services import serving


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Secrets in every variable of the environment that takes one."""
    monkeypatch.setattr(secrets, "_remembered", set())
    for name, value in (VARIABLES | UNTOLD).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{PROXY}@localhost:9")
    handlers = list(logging.getLogger().handlers)
    yield
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


def lengths(body: dict[str, Any], _: int) -> Any:
    return {"scores": [float(len(text)) for text in body["responses"]]}


def refusing(body: dict[str, Any], _: int) -> Any:
    return 401, {}, f"Incorrect API key: {UNTOLD['SCORER']}, in {json.dumps(body)}"


@pytest.mark.usefixtures("in_sampling_folder")
@pytest.mark.parametrize("command", ["dpo", "reward", "ppo"])
def test_train_and_doctor_write_and_print_none(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Tokens in every argument that takes one, given by flag, by JSON and by a file; checkpoints too."""
    config, out = tmp_path / "config.yaml", tmp_path / "out"
    config.write_text(yaml.safe_dump({"hub_token": HUB, "report_to": "none"}))
    words = [command, "--model_name_or_path", "model", "--dataset_name", "pairs.jsonl", "--output_dir", out]
    words += ["--config", config, "--model_init_kwargs", json.dumps({"token": INIT}), *TRAINED]
    words += ["--max_steps", 1, "--save_steps", 1, "--gradient_checkpointing", "false", "--log_level", "info"]
    with serving(lengths) as service:
        if command == "ppo":
            scorer = {"url": f"{service.place}/mine", "key_env": "SCORER", "body": {"api_key": BODY}}
            words += [
                "--scorer",
                json.dumps(scorer),
                "--max_new_tokens",
                4,
                "--num_mini_batches",
                1,
                "--warmup_steps",
                0,
            ]
        assert program(monkeypatch, *words) == 0
    said = "".join(capfd.readouterr())
    assert "training is done" in said and len(arguments := list(out.rglob("training_args.bin"))) == 2
    assert holding(out) == [] and shown(said) == []
    if command == "ppo":  # which the service got
        assert service.headers[0]["Authorization"] == f"Bearer {UNTOLD['SCORER']}"
        assert service.bodies[0]["api_key"] == BODY
    # What a search of bytes could miss: the arguments as they are read again.
    for path in arguments:
        args = torch.load(path, weights_only=False)
        assert args.hub_token is None and "token" not in args.model_init_kwargs and args.max_steps == 1
    (out / "doctor.json").write_text(
        json.dumps({"facts": {"stopped": f"at {VARIABLES['WANDB_API_KEY']}", "settings": {}}, "logs": [{"step": 1}]})
    )
    assert program(monkeypatch, "doctor", out) == 1
    assert f"training stopped (at {secrets.MARK})" in capfd.readouterr().out


def test_arguments_show_none_in_any_form(tmp_path: Path) -> None:
    init = {"token": INIT, "storage": {"password": NESTED}}
    args = DPOConfig(output_dir=str(tmp_path), use_cpu=True, hub_token=HUB, model_init_kwargs=init, report_to="none")
    forms = [str(args), repr(args), args.to_json_string(), str(args.to_sanitized_dict()), repr(pickle.dumps(args))]
    assert [shown(form) for form in forms] == [[]] * len(forms)
    assert args.hub_token == HUB and args.init_kwargs["token"] == INIT  # which they are there for


def test_what_a_service_repeats_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    """Its key by a name that tells nothing, and what stands in the body that it is sent."""
    with serving(refusing) as service:
        scorer = scorer_from(f"{service.place}/mine", key_env="SCORER", body={"api_key": BODY})
        with pytest.raises(ValueError, match="Incorrect API key") as caught:
            scorer.score([[{"role": "user", "content": "a"}]], ["b"])
    secrets.guard_streams()
    print(caught.value, scorer, file=sys.stderr)
    assert shown(capfd.readouterr().err) == []


@pytest.mark.usefixtures("in_sampling_folder")
@pytest.mark.parametrize(
    "words",
    [
        ["--hub_token", HUB, "--beta", HUB],
        ["--model_init_kwargs", json.dumps({"token": INIT}), "--beta", INIT],
        ["--eval_dataset", f"http://me:{PROXY}@host/rows.jsonl"],
        ["--eval_dataset", f"http://host/rows.jsonl?api_key={NESTED}"],
        ["--eval_dataset", f"./{VARIABLES['MY_PASSWORD']}.jsonl"],
    ],
)
def test_no_error_shows_one(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    base = ["dpo", "--model_name_or_path", "model", "--dataset_name", "pairs.jsonl", "--output_dir", tmp_path / "out"]
    assert program(monkeypatch, *base, *TRAINED, *words) == 2
    said = "".join(capfd.readouterr())
    assert "error:" in said and secrets.MARK in said and shown(said) == []


def test_a_traceback_shows_none(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """One of a fault that no command expects, as Python prints it."""
    assert program(monkeypatch, "--version") == 0
    try:
        raise RuntimeError(f"sent {VARIABLES['WANDB_API_KEY']} to http://me:{PROXY}@host")
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    said = capfd.readouterr().err
    assert "RuntimeError: sent [secret] to http://[secret]@host" in said
    assert shown(said) == []


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


def test_the_processes_of_a_comparison_guard_what_they_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
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
    assert holding(out) == [] and shown(said) == []
    copy = yaml.safe_load((out / "plan.yaml").read_text())
    assert copy["sft"]["hub_token"] == copy["training"]["hub_token"] == secrets.MARK
    # The copy is not carried out without them.
    assert program(monkeypatch, "compare", out / "plan.yaml", "--output_dir", tmp_path / "again") == 2
    assert "methods: leaky: hub_token: [secret] stands for a secret" in capfd.readouterr().err


def asked_and_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, plan: dict[str, Any]) -> None:
    """Carry out a plan whose judge is a service that answers with the key that it was given, and then refuses it."""

    def answer(body: dict[str, Any], count: int) -> Any:
        if count >= 6:
            return 401, {}, f"Incorrect API key: {UNTOLD['JUDGE']}, in {json.dumps(body)}"
        text = body["messages"][-1]["content"]
        first, second = (re.search(rf"response {side}\]\n(.*?)\n\[", text, re.DOTALL)[1] for side in "AB")  # type: ignore
        better = "A" if first > second else "B"
        return {"choices": [{"message": {"content": f"{UNTOLD['JUDGE']}\nVerdict: {better}"}}]}

    with serving(answer) as service:
        judge = {"endpoint": f"{service.place}/v1", "model": "m", "key_env": "JUDGE", "concurrency": 1}
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan).replace("THE-JUDGE", json.dumps(judge)))
        program(monkeypatch, command, tmp_path / "plan.yaml", "--output_dir", tmp_path / "out")
        assert {headers["Authorization"] for headers in service.headers} == {f"Bearer {UNTOLD['JUDGE']}"}
        assert len(service.bodies) > 1


def test_a_judge_within_a_comparison_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(write, "write_figures", lambda *arguments: {})
    monkeypatch.setattr(Schedule, "run", lambda run, tasks: one_by_one(run.out, tasks))
    methods = {"dpo": {"max_steps": 1, "hub_token": HUB}}
    asked_and_told(monkeypatch, tmp_path, "compare", {**COMPARED, "methods": methods, "judges": ["THE-JUDGE"]})
    said, out = "".join(capfd.readouterr()), tmp_path / "out"
    assert list(out.glob("judge/*/judgements.parquet")) and (out / "report/report.html").is_file()
    assert holding(out) == [] and shown(said) == []


def test_rounds_and_their_report_hold_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Labels by a service that repeats its key, and a token in each stage that takes arguments of a trainer."""
    monkeypatch.setattr(Schedule, "run", lambda run, tasks: one_by_one(run.out, tasks))
    evaluation = {key: value for key, value in COMPARED["evaluation"].items() if key != "curve_points"}
    stages = {
        "prompts": {"label": 4, "sample": 4},
        "label": {"by": "THE-JUDGE", "temperatures": [0.8, 1.2], "include_truncated": True},
        "reward": {"max_steps": 1, "hub_token": HUB},
        "sample": {"responses_per_prompt": 2, "max_truncated": 1.0},
        "select": {"include_truncated": True},
        "train": {"method": "dpo", "init": "previous", "max_steps": 1, "hub_token": HUB},
    }
    plan = {key: COMPARED[key] for key in ("policy", "data", "sft", "training")}
    plan |= {"evaluation": evaluation, "round": stages, "rounds": [{}]}
    asked_and_told(monkeypatch, tmp_path, "rounds", plan)
    said, out = "".join(capfd.readouterr()), tmp_path / "out"
    assert list(out.rglob("labels.jsonl")), said
    assert holding(out) == [] and shown(said) == []
    copy = yaml.safe_load((out / "plan.yaml").read_text())
    assert copy["sft"]["hub_token"] == copy["round"]["reward"]["hub_token"] == secrets.MARK


def test_the_search_finds_what_there_is(tmp_path: Path) -> None:
    torch.save({"a": ["planted"]}, tmp_path / "x.bin")
    (tmp_path / "y.gz").write_bytes(gzip.compress(b"planted"))
    pq.write_table(pa.table({"text": ["planted"] * 3}), tmp_path / "z.parquet", compression="zstd")
    found = holding(tmp_path, ["planted", "absent"])
    assert {name for name, _ in found} == {"x.bin", "y.gz", "z.parquet"} and {value for _, value in found} == {
        "planted"
    }

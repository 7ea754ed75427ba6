"""`prefopt doctor` as it is typed: what it says of sick and healthy folders, in both languages, and its exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from tests.helpers.commands import error_of, run


def folder(path: Path, **series: list[Any]) -> Path:
    path.mkdir(parents=True)
    count = len(next(iter(series.values())))
    logs = [{"step": 10 * (i + 1), **{name: values[i] for name, values in series.items()}} for i in range(count)]
    (path / "trainer_state.json").write_text(json.dumps({"log_history": logs}))
    return path


@pytest.fixture
def sick(tmp_path: Path) -> Path:
    return folder(tmp_path / "sick", loss=[0.69, 0.68, 0.6, 0.6, 0.5], min_reward=[0.25] * 5, max_reward=[0.25] * 5)


@pytest.fixture
def well(tmp_path: Path) -> Path:
    return folder(tmp_path / "well", loss=[0.69, 0.68, 0.6, 0.6, 0.5], min_reward=[-2.0] * 5, max_reward=[2.0] * 5)


def test_a_healthy_run_is_0(well: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", well) == 0
    assert capsys.readouterr().out == "well: nothing is wrong in what was logged (steps: 50)\n"


def test_a_sick_run_is_1_with_its_numbers(sick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", sick) == 1
    out = capsys.readouterr().out
    assert out.startswith("sick: constant_scores: all scores lie between 0.25 and 0.25: the reward model says the same")
    assert len(out.splitlines()) == 1


def test_in_chinese(sick: Path, well: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", sick.parent, "--lang", "zh") == 1
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("sick: constant_scores: 所有得分都在 0.25 与 0.25 之间：奖励模型对什么都说一样的话")
    assert (second, third) == ("well: 从日志里没有发现问题（50 步）", "2 个运行中有 1 个存在问题")


def test_runs_of_several_folders_have_their_names(sick: Path, well: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", sick, well) == 1
    names = [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [str(sick), str(well), "1 of 2 runs have something wrong with them"]


def test_no_run_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no run, which has one of doctor.json" in error_of(capsys, "doctor", tmp_path)
    (tmp_path / "log.jsonl").write_text("")
    assert "log.jsonl is a file: give the folder that it is in" in error_of(capsys, "doctor", tmp_path / "log.jsonl")
    assert "no such folder" in error_of(capsys, "doctor", tmp_path / "absent")


def test_a_run_without_a_log_is_not_called_healthy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "doctor.json").write_text(json.dumps({"facts": {"settings": {"learning_rate": 0.1}}, "logs": []}))
    assert run("doctor", tmp_path) == 0
    assert "nothing was logged, and so nothing is known" in capsys.readouterr().out


def test_how_much_of_a_run_was_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run/iteration-000").mkdir(parents=True)
    (tmp_path / "run/iteration-000/report.json").write_text(json.dumps({"rows": 60, "prompts": 64}) + "\n")
    assert run("doctor", tmp_path / "run") == 0
    assert capsys.readouterr().out == "run: nothing is wrong in what was logged (iterations: 1)\n"


@pytest.mark.parametrize("kind", ["xterm", "dumb"])
@pytest.mark.parametrize(("lang", "advice"), [("en", "the reward model says the same"), ("zh", "奖励模型对什么都说")])
def test_a_terminal_has_paragraphs_of_its_width(
    lang: str, advice: str, kind: str, sick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert run("doctor", sick, "--lang", lang) == 1
    first, *rest = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert first == "sick: constant_scores" and len(rest) > 2
    assert [line for line in rest if not line.startswith("  ") or cell_len(line.rstrip()) > 60] == []
    assert any(line.strip().startswith(advice) for line in rest)

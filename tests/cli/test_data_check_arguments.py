"""`prefopt data check`: its arguments in the order of its own usage, and lines that fit a terminal of 80 columns."""

import json
import sys
from pathlib import Path

import pytest

from prefopt.cli.data_check import main

ROWS = [{"ask": "Hm?", "r1": "Ha.", "r2": "x", "pick": "r1"}, {"ask": "你好", "r1": "x", "r2": "您好！", "pick": "r2"}]
MAPPING = ["--columns", "question=ask", "response_a=r1", "response_b=r2", "winner=pick"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return str(path)


def test_files_may_come_before_and_after_a_mapping(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The column that points at the better answer may name it as the file does."""
    printed = []
    for words in ([file, *MAPPING], [*MAPPING, file], ["--json", *MAPPING, file], [*MAPPING, file, "--json"]):
        assert main(words) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and printed[2] == printed[3]
    sample = json.loads(printed[2])["files"][0]["sample"]
    assert (sample["chosen"], sample["rejected"]) == ("Ha.", "x")


def test_a_word_that_is_no_mapping_is_named(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([file, "--columns", "ask"]) == 2
    assert "--columns ask: expected NAME=COLUMN" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(MAPPING)
    assert "arguments are required: FILE" in capsys.readouterr().err


def test_help_and_errors_fit_80_columns(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out.splitlines()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main([file]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert max(map(len, shown)) <= 80 and max(len(line) for line in errors if file not in line) <= 80
    assert "no adapter knows rows" in " ".join(errors) and "winner=NAME" in " ".join(errors)


def test_columns_that_say_something_and_others_are_both_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"query": "a", "chosen": "b", "rejected": "c", "id": 1, "quality_score": 2}\n')
    main([str(path)])
    out = capsys.readouterr().out
    assert "columns that are not read, and seem to say something: quality_score (1)" in out
    assert "columns that are not read: id (1)" in out

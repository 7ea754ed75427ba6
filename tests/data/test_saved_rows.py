"""Rows of text that were saved, in any form, are the same rows when they are loaded again; tool calls among them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from prefopt.data import load
from tests.helpers.shapes import bot, user


def call(name: str, **arguments: Any) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


CALL = '[{"type": "function", "function": {"name": "clock", "arguments": {"zone": "x"}}}]'
RAW: dict[str, tuple[str, list[dict[str, Any]]]] = {  # purpose, rows
    "pairs": (
        "preferences",
        [
            {"prompt": [user("天气？")], "chosen": [call("weather", city="巴黎")], "rejected": [bot("no")]},
            {"prompt": [user("Hm?")], "chosen": [bot(" Ha.")], "rejected": [call("clock", zone="x", hours=1)]},
            {"prompt": [user("Hm?")], "chosen": [bot("Ha.")], "rejected": [bot("x")]},
        ],
    ),
    "conversations": (
        "sft",
        [
            {"messages": [user("天气？"), call("weather", city="巴黎"), {"role": "tool", "content": "sun"}, bot("晴")]},
            {"messages": [user("When?"), call("clock", zone="x", hours=1)]},
            {"messages": [user("Hm?"), bot("Ha."), user("Hm?"), call("clock", zone="y")]},
            {"messages": [user("Hm?"), bot("Ha.")]},
        ],
    ),
    "unpaired": (
        "unpaired",
        [
            {"prompt": [user("天气？")], "completion": [call("weather", city="巴黎")], "label": True},
            {"prompt": [user("Hm?")], "completion": [bot("Ha.")], "label": False},
        ],
    ),
    "calls in the prompt": (
        "preferences",
        [
            {
                "prompt": [user("天气？"), call("weather", city="巴黎"), {"role": "tool", "content": "sun"}],
                "chosen": "晴",
                "rejected": "雨",
                "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
            },
            {"prompt": [user("Hm?")], "chosen": "a", "rejected": "b"},
        ],
    ),
}
SAVED: dict[str, Callable[[Dataset, Path], Any]] = {
    "list": lambda rows, path: rows.to_list(),
    "dataset": lambda rows, path: rows,
    "jsonl": lambda rows, path: rows.to_json(path / "x.jsonl") and path / "x.jsonl",
    "parquet": lambda rows, path: rows.to_parquet(path / "x.parquet") and path / "x.parquet",
    "save_to_disk": lambda rows, path: rows.save_to_disk(path / "x") or path / "x",
}


@pytest.mark.parametrize("how", SAVED)
@pytest.mark.parametrize("shape", RAW)
@pytest.mark.parametrize("what", ["as it came", "as it was read"])
def test_saved_rows_are_the_same_again(what: str, shape: str, how: str, tmp_path: Path) -> None:
    """A table has a field for whatever any turn has, so that most cells of tool calls are null."""
    purpose, rows = RAW[shape]
    read = load(rows, purpose)[0]
    source = SAVED[how](Dataset.from_list(rows) if what == "as it came" else read, tmp_path)
    again, report = load(source, purpose)
    assert again.to_list() == read.to_list() and report.dropped.total() == 0 and len(again) == len(rows)


def test_calls_that_do_not_fit_the_answers_are_not_dropped_unseen() -> None:
    rows = [{"prompt": [user("Hm?")], "chosen": "a", "rejected": "b", "tool_calls": [CALL]}]
    _, report = load([*rows, {"prompt": [user("Hm?")], "chosen": "a", "rejected": "b"}])
    assert [reason for reason in report.dropped if "'tool_calls'" in reason]

"""No text of an answer changes unsaid: code keeps its indent, and Windows line ends are read."""

import logging
from typing import Any

import pytest

from prefopt.data import load
from prefopt.data.text_prompts import users_turns

CODE = "    return x\n"
OTHER = "  pass"
SHAPES: list[tuple[str, str, dict[str, Any]]] = [  # the format, the purpose, the row
    ("query-chosen-rejected", "preferences", {"query": "q", "chosen": CODE, "rejected": OTHER}),
    ("llamafactory", "preferences", {"instruction": "q", "chosen": CODE, "rejected": OTHER}),
    ("cvalues", "preferences", {"prompt": "q", "pos_resp": CODE, "neg_resp": OTHER}),
    ("moss", "preferences", {"chosen": ["q", CODE], "rejected": ["q", OTHER]}),
    ("trl", "preferences", {"prompt": "q", "chosen": CODE, "rejected": OTHER}),
    ("two-answers", "preferences", {"prompt": "q", "answer_a": OTHER, "answer_b": CODE, "better": "b"}),
    ("rrhf", "preferences", {"query": "q", "responses": [OTHER, CODE], "scores": [1, 2]}),
    ("alpaca", "sft", {"instruction": "q", "input": "", "output": CODE}),
    ("query-response", "sft", {"query": "q", "response": CODE}),
    ("zhihu-kol", "sft", {"INSTRUCTION": "q", "RESPONSE": CODE}),
    ("hc3-chinese", "sft", {"question": "q", "chatgpt_answers": [CODE]}),
    ("labelled", "unpaired", {"instruction": "q", "output": CODE, "label": True}),
]


@pytest.mark.parametrize(("adapter", "purpose", "row"), SHAPES, ids=[shape[0] for shape in SHAPES])
def test_an_answer_keeps_its_indent(adapter: str, purpose: str, row: dict[str, Any]) -> None:
    dataset, report = load([row], purpose)
    read = dataset[0]
    answers = read.get("responses") or [read[name] for name in ("chosen", "rejected", "response") if name in read]
    assert report.adapter == adapter and answers == ([CODE, OTHER] if purpose == "preferences" else [CODE])


def test_space_that_goes_with_a_prompt_in_plain_text_is_said(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": "q", "chosen": CODE, "rejected": " no"}, {"prompt": "q", "chosen": "a", "rejected": "b"}]
    with caplog.at_level(logging.WARNING, "prefopt.data"):
        turned = users_turns(load(rows)[0])
    assert [turned[0]["chosen"], turned[0]["rejected"]] == ["    return x", "no"]
    assert "2 of 2 prompts" in caplog.text and "The space around the answers of 1 of them goes" in caplog.text


def test_transcripts_with_windows_line_ends_are_read() -> None:
    asked = "\r\n\r\nHuman: 你好\r\n\r\nAssistant: "
    dataset, report = load([{"chosen": asked + "您好！\r\n请说。", "rejected": asked + "嗯"}])
    assert report.adapter == "hh-rlhf" and not report.dropped
    assert dataset.to_list() == [
        {"prompt": [{"role": "user", "content": "你好"}], "chosen": "您好！\r\n请说。", "rejected": "嗯"}
    ]

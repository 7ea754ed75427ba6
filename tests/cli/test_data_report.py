"""The report of `prefopt data check` on paper and on a terminal: its first lines, its marks, and 80 columns."""

import io
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from prefopt.cli.data_report import WORDS, shortened, show
from prefopt.data.check import check
from prefopt.data.check_encoding import _LOOKED_AT, _NOTED
from prefopt.data.findings import ERRORS
from tests.helpers.shapes import bot, user
from tests.helpers.tokenizers import CHATML, make_tokenizer

CHAT = make_tokenizer(CHATML, eos="<|im_end|>")
PAIR = {"query": "中国的首都是哪里？", "chosen": "北京。\n就是北京。", "rejected": "上海"}
LONG = {"query": "中国的首都是哪里？" * 90, "chosen": "bread " * 300, "rejected": "👩‍🍳é\u3000\x1b[31m\t" * 90}
TURNS = {"messages": [say("面粉和水。" * n) for n in range(1, 9) for say in (user, bot)]}
RANKED = {"query": "q", "responses": [f"答案{i}" for i in range(9)], "scores": [*range(9, 0, -1)]}
LABELLED = {"prompt": "说一种水果。" * 30, "completion": "苹果。", "label": True}


def printed(rows: list[dict[str, Any]], terminal: bool = False, **how: Any) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=terminal, color_system="standard" if terminal else None)
    show(check([rows], **how), console)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("tokenizer", [None, CHAT])
@pytest.mark.parametrize("row", [PAIR, LONG, TURNS, RANKED, LABELLED], ids=["pair", "long", "turns", "list", "label"])
def test_no_line_is_longer_than_80_cells(row: dict[str, Any], tokenizer: Any, terminal: bool) -> None:
    lines = printed([row, row], terminal, tokenizer=tokenizer, max_length=200)
    plain = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]
    assert max(map(cell_len, plain)) <= 80
    assert not any("\x1b" in line for line in plain), "what a row says must not move the cursor"
    assert len(plain) < 60


def test_it_first_says_what_it_reads_and_shows_a_row_as_it_is_trained_on() -> None:
    lines = [line.rstrip() for line in printed([PAIR, {**PAIR, "query": "q"}], tokenizer=CHAT)]
    assert lines[0] == "list read as query-chosen-rejected"
    assert lines[1].startswith("Pairs: a chosen and a rejected answer. Columns: query")
    start = lines.index("2 rows, 2 kept, 0 dropped")
    assert lines[start + 1 : start + 9] == [
        "One row as it is trained on (row 0):",
        "  user      中国的首都是哪里？",
        "  chosen    北京。↵就是北京。",
        "  rejected  上海",
        "The same as tokens; the loss falls on what is between ⟦ and ⟧:",
        "  prompt    <|im_start|>user↵中国的首都是哪里？<|im_end|>↵<|im_start|>assistant↵",
        "  chosen    ⟦北京。↵就是北京。<|im_end|>⟧",
        "  rejected  ⟦上海<|im_end|>⟧",
    ]


def test_a_terminal_has_colours_instead_of_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = "\n".join(printed([PAIR], True, tokenizer=CHAT))
    assert "\x1b[1;32m上海<|im_end|>\x1b[0m" in text and "⟦" not in text


def test_lists_show_the_best_and_the_worst_with_their_scores() -> None:
    lines = [line.split() for line in printed([RANKED])]
    assert ["1", "(9)", "答案0"] in lines and ["9", "(1)", "答案8"] in lines
    assert ["…", "(3", "more", "answers)"] in lines and ["5", "(5)", "答案4"] not in lines


def test_labels_and_user_turns_are_said() -> None:
    rows = [LABELLED, {**LABELLED, "prompt": "q", "label": False}]
    text = "\n".join(printed(rows, tokenizer=CHAT))
    assert "1 answers labelled good, 1 bad" in text and "2 prompts of bare text became user turns" in text
    assert "prompts of bare text, beside a chat template" in text


def test_every_finding_has_words() -> None:
    assert {*ERRORS, *_NOTED, *_LOOKED_AT} <= WORDS.keys()
    for row in (PAIR, TURNS, RANKED, LABELLED):
        assert check([[row]], tokenizer=CHAT).files[0].findings.keys() <= WORDS.keys()


@pytest.mark.parametrize("text", ["北京" * 400, "a" * 900, "词 word " * 200, "👩‍🍳" * 300])
def test_a_long_text_keeps_both_ends_and_says_how_long_it_is(text: str) -> None:
    short = shortened(text, 100)
    assert 90 <= cell_len(short) <= 100 and f"({len(text):,} characters in all)" in short
    head, _, tail = (part.strip() for part in short.partition(f"… ({len(text):,} characters in all) …"))
    assert text.startswith(head) and text.rstrip().endswith(tail) and head and tail


def test_a_short_text_stays_whole() -> None:
    assert shortened("北京。\n\x1b[31mred\ttab", 100) == "北京。↵\\x1b[31mred\\ttab"


def test_a_reason_in_brackets_is_not_taken_for_a_path(tmp_path: Path) -> None:
    from prefopt.cli.data_report import _where

    folder = tmp_path / "my data"
    places = [f"{folder}/a.jsonl:3 (user/assistant only)", f"{folder}/a.jsonl:4 = {folder}/b.jsonl:1"]
    assert _where(places) == "a.jsonl:3 (user/assistant only), :4 = b.jsonl:1"


def test_nothing_that_a_file_says_acts_unseen(tmp_path: Path) -> None:
    """Names of files, columns and roles, and what a complaint quotes."""
    evil = "\x1b]0;t\x07\u202eevil\u200b"
    row = {"query": evil, "chosen": evil, "rejected": "b", evil: 1}
    path = tmp_path / f"rows{evil}.jsonl"
    path.write_text("\n".join(map(json.dumps, [row, row, {"query": evil, "chosen": 1, "rejected": evil}])))
    out = io.StringIO()
    show(check([str(path)], tokenizer=CHAT), Console(file=out, width=80))
    said = out.getvalue()
    assert not {c for c in said if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"}
    assert "\\x1b]0;t\\x07\\u202eevil\\u200b" in said.replace("\n", "")

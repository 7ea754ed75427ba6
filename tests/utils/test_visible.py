"""What acts unseen on a screen is written out; what people write stays as it is."""

from __future__ import annotations

import json
import logging
import sys
import unicodedata
from dataclasses import dataclass

import pytest

from prefopt.utils.visible import (
    VisibleFormatter,
    bounded,
    one_line,
    shown,
    visible,
    visible_json,
    visible_parts,
)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\x1b]0;title\x07 \x9b31m", "\\x1b]0;title\\x07 \\x9b31m"),
        ("a\u202egpj.exe\u202c", "a\\u202egpj.exe\\u202c"),
        ("pass\u200bword \u2066x\u2069 \ufeff \xad \u2028", "pass\\u200bword \\u2066x\\u2069 \\ufeff \\xad \\u2028"),
        ("over\rwritten\b\x00\x7f", "over\\rwritten\\x08\\x00\\x7f"),
        ("ad\u200dmin \U000e0041", "ad\\u200dmin \\U000e0041"),
    ],
)
def test_what_is_unseen_is_written_out(text: str, seen: str) -> None:
    assert visible(text) == seen == visible(seen)


@pytest.mark.parametrize(
    "text",
    ["中国的首都是北京。（「引」）\u3000！", "two\r\nlines\n\ttab", "👩\u200d🍳 é ½ naïve Привет", "می\u200cخواهم", ""],
)
def test_what_people_write_stays(text: str) -> None:
    assert visible(text) == text


def test_every_character_is_seen_or_written_out() -> None:
    """Of all of Unicode, against Python's own tables."""
    text = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if c not in "\n\t\r\u200c\u200d")
    kinds = {unicodedata.category(c) for c in visible(text)}
    assert not kinds & {"Cc", "Cf", "Zl", "Zp"} and {"Lo", "Mn", "So", "Co"} <= kinds


def test_one_line_and_json() -> None:
    assert one_line("北京。\r\na\tb\n\x1b") == "北京。↵a\\tb↵\\x1b"
    given = {"a\u202e": ["\x1b[0m 中文", "\u200b\U000e0041\x7f"]}
    text = visible_json(json.dumps(given, ensure_ascii=False))
    assert json.loads(text) == given and "中文" in text and text.count("\\u") == 6
    assert not {unicodedata.category(c) for c in text} & {"Cc", "Cf"}


@dataclass(frozen=True)
class Named:
    name: str
    values: tuple[object, ...] = ()


def test_copies_keep_their_kinds() -> None:
    given = {"\x1b": [Named("a\x07", (1, "\u202e", None))]}
    assert visible_parts(given) == {"\\x1b": [Named("a\\x07", (1, "\\u202e", None))]}


def test_messages_are_bounded() -> None:
    assert bounded("12345", 5) == "12345" and bounded("123456", 5) == "12345 … (1 more characters)"
    nested: object = "word"
    for _ in range(40):
        nested = [nested] * 10
    assert len(shown(nested)) < 300 and shown("a\x1b") == "'a\\x1b'" and shown(1.5) == "1.5"


def test_a_log_shows_rows_as_they_may_be_shown() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 1, "row says %s", ("\x1b]0;t\x07\nnext",), None)
    assert VisibleFormatter("%(message)s").format(record) == "row says \\x1b]0;t\\x07\nnext"

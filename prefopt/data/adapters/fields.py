"""Fetches fields from a raw row, and says what is wrong with one; knows no particular format."""

import math
import re
from collections.abc import Mapping
from typing import Any

from ...grades import GRADES
from ..records import Turn, kind_of

Row = dict[str, Any]

ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "人类", "用户", "问"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bot", "model", "ai", "moss", "助手", "助理", "机器人"), "assistant"
    ),
    **dict.fromkeys(("system", "developer", "系统"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "ipython"), "tool"),
    "text": "text",
}


class Drop(Exception):
    """This row cannot be used; the message is the reason, fit for counting."""


def is_text(row: Row, *names: str) -> bool:
    return all(isinstance(row.get(name), str) for name in names)


def text(row: Row, name: str) -> str:
    """A text field as it came."""
    value = row.get(name)
    if not isinstance(value, str):
        raise Drop(f"field {name!r}: is {kind_of(value)}, expected text" if name in row else f"field {name!r}: missing")
    return value


def number(row: Row, name: str) -> float:
    """A finite number field."""
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Drop(f"field {name!r}: is {kind_of(value)}, expected a number")
    if not math.isfinite(value):
        raise Drop(f"field {name!r}: is {value}, expected a finite number")
    return float(value)


def numbers(row: Row, name: str) -> tuple[float, ...]:
    """A list of finite numbers."""
    return tuple(number({name: value}, name) for value in items(row, name))


def flags(row: Row, name: str, count: int) -> tuple[bool, ...]:
    """A list of true and false, one for each of `count` responses; for a single one also bare."""
    value = row[name]
    found = [value] if count == 1 and isinstance(value, bool) else items(row, name)
    wrong = next((flag for flag in found if not isinstance(flag, bool)), True)
    if wrong is not True:
        raise Drop(f"field {name!r}: its list holds {kind_of(wrong)}, expected true or false for each response")
    if len(found) != count:
        raise Drop(f"field {name!r}: holds {len(found)} values for {count} responses, expected one for each")
    return tuple(found)


def items(row: Row, name: str) -> list[Any]:
    """A list field."""
    value = row.get(name)
    if not isinstance(value, list | tuple):
        raise Drop(
            f"field {name!r}: is {kind_of(value)}, expected a list" if name in row else f"field {name!r}: missing"
        )
    return list(value)


def first_key(row: Row, names: tuple[str, ...]) -> str | None:
    """The first of these names that the row has."""
    return next((name for name in names if name in row), None)


def is_turn(value: object) -> bool:
    return isinstance(value, Mapping) and ("role" in value or "from" in value)


def is_turns(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(is_turn, value))


def turn(value: object, name: str) -> Turn:
    """One turn from {role, content}, {from, value} or {role, text}."""
    if not isinstance(value, Mapping) or not is_turn(value):
        raise Drop(f"field {name!r}: is {kind_of(value)}, expected a turn with a role and its text")
    role = str(value.get("role") or value.get("from"))
    if role.lower() not in ROLES:
        raise Drop(f"field {name!r}: unknown role {role!r}")
    content = next((value[key] for key in ("content", "value", "text") if value.get(key) is not None), "")
    return Turn(ROLES[role.lower()], _content(content, name))


def _content(content: object, name: str) -> str:
    """Text, or a list of text blocks."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) and "text" in part for part in content):
        return "".join(str(part["text"]) for part in content)
    raise Drop(f"field {name!r}: a turn's content is {kind_of(content)}, expected text")


def turns(row: Row, name: str) -> list[Turn]:
    """A list of turns."""
    return [turn(value, name) for value in items(row, name)]


def merged(conversation: list[Turn]) -> tuple[list[Turn], tuple[str, ...]]:
    """Consecutive turns of one speaker become one turn, as templates demand that speakers alternate."""
    result: list[Turn] = []
    for turn_ in conversation:
        if result and turn_.role == result[-1].role and turn_.role in ("user", "assistant"):
            joined = "\n\n".join(part for part in (result[-1].content, turn_.content) if part)
            result[-1] = Turn(turn_.role, joined)
        else:
            result.append(turn_)
    return result, ("consecutive turns of one speaker merged",) if len(result) < len(conversation) else ()


def grade(row: Row) -> str:
    """One of Llama 2's four grades, also from its long form ("significantly better", "negligibly better / unsure")."""
    value = row["grade"]
    words = set(re.findall("[a-z]+", value.lower())) if isinstance(value, str) else set()
    for name in ("significantly", "slightly", "negligibly"):
        if name in words:
            return name
    if "unsure" in words:
        return "negligibly"
    if words != {"better"}:
        raise Drop(f"field 'grade': {value!r} is not one of {', '.join(GRADES)}")
    return "better"

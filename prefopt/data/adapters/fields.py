"""The tools that adapters are made of: each fetches a field from a raw row, or drops the row with the reason.

Here stands what a role is called (`ROLES`), how chat turns are written, and how a row says which responses ended by
themselves (`terminated`). An adapter of your own may use them too.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from ...grades import GRADES
from ..records import (
    ANSWER_EXTRAS,
    FINISH_REASONS,
    TEXTS_BESIDE,
    THOUGHTS,
    DataError,
    Response,
    Turn,
    kind_of,
    name_of_call,
)
from .cells import decoded, exchange_of, holds_turns, is_chat_turn
from .columns import TEMPLATE_INPUTS

Row = dict[str, Any]

ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "人类", "人類", "用户", "用戶", "使用者", "问", "問"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "ai", "moss", "claude", "bard"), "assistant"),
    **dict.fromkeys(("助手", "助理", "机器人", "機器人", "function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("system", "developer", "系统", "系統"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response", "function_response"), "tool"),
    "text": "text",
}


_EXTRAS = frozenset(
    (*TEMPLATE_INPUTS, "tool_calls", "function_call", *(n for each in TEXTS_BESIDE.values() for n in each))
)
"""What a turn may have beside its role and what it says."""
_CALLS = ("function_call", "tool_call")
"""Roles whose turns are calls of tools, in ShareGPT's form, ms-swift's and LLaMA-Factory's."""
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


class Drop(Exception):
    """Raised by an adapter for a row that cannot be used; the message is the reason, the same for rows alike.

    Rows are counted by that reason and loading goes on, unless it is strict.
    """


def is_text(row: Row, *names: str) -> bool:
    """Whether the row has all of these fields, and each is text."""
    return all(isinstance(row.get(name), str) for name in names)


def text(row: Row, name: str) -> str:
    """A text field as it came, with the space around it."""
    value = row.get(name)
    if not isinstance(value, str):
        raise Drop(f"field {name!r}: is {kind_of(value)}, expected text" if name in row else f"field {name!r}: missing")
    return value


def number(row: Row, name: str) -> float:
    """A field that is a finite number, or text that spells one."""
    value = row[name]
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Drop(f"field {name!r}: is {kind_of(value)}, expected a number")
    if not math.isfinite(value):
        raise Drop(f"field {name!r}: is {value}, expected a finite number")
    return float(value)


def numbers(row: Row, name: str) -> tuple[float, ...]:
    """A field that is a list of finite numbers."""
    return tuple(number({name: value}, name) for value in items(row, name))


def terminated(row: Row, count: int) -> tuple[bool, ...] | None:
    """Which of `count` responses ended by themselves, with a stop token; None where the row does not say it.

    A row says it in the column `finish_reason` ("stop", or why else the response ended) or `finished` (true or false):
    a list with a value for each response, in the order of the row, or for a single response a bare value. A response
    that is not terminated is truncated: it gets no stop token, whichever of the other reasons there is.

    Raises:
        Drop: a column that is something else.
        DataError: both columns are there and contradict each other.
    """
    flags = _each(row, "finished", count, bool, "true or false") if "finished" in row else None
    if "finish_reason" not in row:
        return flags
    reasons = _each(row, "finish_reason", count, str, f"one of {', '.join(FINISH_REASONS)}")
    unknown = next((reason for reason in reasons if reason not in FINISH_REASONS), None)
    if unknown is not None:
        raise Drop(f"field 'finish_reason': {unknown!r} is not one of {', '.join(FINISH_REASONS)}")
    stopped = tuple(reason == "stop" for reason in reasons)
    if flags is not None and flags != stopped:
        raise DataError(
            f"finished is {json.dumps(row['finished'])} and finish_reason {json.dumps(row['finish_reason'])}, which "
            'contradict each other: true goes with "stop", and false with the other reasons. Keep the one that is right'
        )
    return stopped


def sampled(row: Row, count: int) -> tuple[tuple[tuple[int, ...], ...], str] | None:
    """The ids that a policy sampled for each of `count` responses, and their tokenizer; None where a row has none.

    Raises:
        Drop: a column that is something else.
    """
    if "sampled_ids" not in row or "sampled_by" not in row:
        return None
    ids, by = items(row, "sampled_ids"), row["sampled_by"]
    right = isinstance(by, str) and len(ids) == count and all(isinstance(each, list | tuple) for each in ids)
    if not right or not all(type(i) is int and 0 <= i < 2**31 for each in ids for i in each):
        raise Drop(
            f"field 'sampled_ids': expected a list of ids for each of {count} responses, none below 0, and in "
            "'sampled_by' the fingerprint of their tokenizer; leave both out for rows of text"
        )
    return (tuple(map(tuple, ids)), by) if by and any(ids) else None


def _each(row: Row, name: str, count: int, kind: type, expected: str) -> tuple[Any, ...]:
    """A list with a value of this kind for each of `count` responses; for a single response also a bare value."""
    value = row[name]
    values = [value] if count == 1 and isinstance(value, kind) else items(row, name)
    for each in values:
        if not isinstance(each, kind):
            raise Drop(f"field {name!r}: its list holds {kind_of(each)}, expected {expected} for each response")
    if len(values) != count:
        raise Drop(f"field {name!r}: holds {len(values)} values for {count} responses, expected one for each")
    return tuple(values)


def items(row: Row, name: str) -> list[Any]:
    """A field that is a list."""
    value = row.get(name)
    if not isinstance(value, list | tuple):
        raise Drop(
            f"field {name!r}: is {kind_of(value)}, expected a list" if name in row else f"field {name!r}: missing"
        )
    return list(value)


def first_key(row: Row, names: tuple[str, ...]) -> str | None:
    """The first of these names that the row has."""
    return next((name for name in names if name in row), None)


def is_chat(value: object) -> bool:
    """Whether this is a list of chat turns or exchanges with at least one, or JSON text of such a list."""
    return holds_turns(value)


def chat_turn(value: Any, name: str) -> Turn:
    """One chat turn from {role, content}, {from, value} or {role, text}; `name` is the field that holds it."""
    if not is_chat_turn(value):
        raise Drop(f"field {name!r}: is {kind_of(value)}, expected a turn with a role and its text")
    role = str(value.get("role") or value.get("from"))
    if role.lower() not in ROLES:
        raise Drop(f"field {name!r}: unknown role {role!r}")
    content = next((value[key] for key in ("content", "value", "text") if value.get(key) is not None), None)
    if role.lower() in _CALLS and (call := _spelled_calls(content)) and not value.get("tool_calls"):
        value, content = {**value, "tool_calls": call}, None
    said = "" if content is None else _content(content, name)
    if _EXTRAS.isdisjoint(value):
        return Turn(ROLES[role.lower()], said)
    inputs = {key: template_input(value, key) for key in TEMPLATE_INPUTS if key in value}
    calls = _tool_calls(value, name) if value.get("tool_calls") or value.get("function_call") else ""
    if calls and ROLES[role.lower()] != "assistant":
        raise Drop(f"field {name!r}: a turn of {role!r} has tool_calls, which only the assistant's may have")
    return Turn.of(
        ROLES[role.lower()], said, tool_calls=calls, **inputs, **_texts_beside(value, ROLES[role.lower()], name)
    )


def _texts_beside(turn: Mapping[str, Any], role: str, name: str) -> dict[str, str]:
    """What a turn has of `TEXTS_BESIDE`, the thought under its first name."""
    found = {key: turn[key] for key in TEXTS_BESIDE.get(role, ()) if is_text_beside(turn, key)}
    if role != "assistant":
        return found
    if len({thought.strip() for thought in found.values()}) > 1:
        raise Drop(f"field {name!r}: {' and '.join(found)} of a turn are two different thoughts")
    return dict(zip(THOUGHTS[:1], found.values(), strict=False))


def is_text_beside(turn: Mapping[str, Any], key: str) -> bool:
    """Whether a turn has a text under this key."""
    return isinstance(turn.get(key), str) and bool(turn[key].strip())


def template_input(row: Mapping[str, Any], name: str) -> str:
    """What a row or a turn has under one of `TEMPLATE_INPUTS`, as JSON text; "" where it says nothing.

    JSON text is taken to the letter. Of objects the entries that are null go: tables fill them in.
    """
    value = row.get(name)
    found = decoded(value.strip()) if isinstance(value, str) else _without_nulls(value)
    if found in (None, "", [], {}):
        return ""
    if name == "tools" and not (isinstance(found, list) and all(map(_is_tool, found))):
        what = "a list of something else" if isinstance(found, list) else kind_of(found)
        raise Drop(f"field 'tools': is {what}, expected a list of JSON schemas with a name each, or JSON text of one")
    if name != "tools" and not isinstance(found, dict):
        raise Drop(f"field {name!r}: is {kind_of(found)}, expected an object, or JSON text of one")
    return _json(found, name)


def _is_tool(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(name_of_call(value) or name_of_call({"function": value}))


def _tool_calls(turn: Mapping[str, Any], name: str) -> str:
    """The calls of a turn in OpenAI's form, as JSON text; arguments that came as JSON text are an object in it.

    Templates want objects: https://huggingface.co/docs/transformers/chat_extras
    """
    given = turn.get("tool_calls") or [turn["function_call"]]
    calls = decoded(given) if isinstance(given, str) else _without_nulls(given)
    if isinstance(calls, list):
        calls = [{"type": "function", "function": call} if _is_bare_call(call) else call for call in calls]
    if not isinstance(calls, list) or not all(map(name_of_call, calls)):
        raise Drop(f"field {name!r}: a turn's tool_calls are not a list of {{type, function: {{name, arguments}}}}")
    return _json([{**call, "function": _with_object(call["function"])} for call in calls], name)


def _spelled_calls(content: Any) -> list[Any] | None:
    """The calls that the text of a function_call turn spells, as JSON of {name, arguments} or of a list of them."""
    found = decoded(content.strip()) if isinstance(content, str) else content
    calls = found if isinstance(found, list) else [found]
    return calls if calls and all(_is_bare_call(call) and "arguments" in call for call in calls) else None


def _is_bare_call(call: Any) -> bool:
    return isinstance(call, Mapping) and "function" not in call and name_of_call({"function": call}) is not None


def _with_object(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments")
    return {**function, "arguments": decoded(arguments)} if isinstance(arguments, str) else dict(function)


def _without_nulls(value: Any) -> Any:
    """A value less the entries of its objects that are null."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list | tuple) else value


def _json(value: Any, name: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError as error:
        raise Drop(f"field {name!r}: holds what JSON has no form for: {error}") from error


def response_of(turn: Turn) -> Response:
    """What an assistant's turn answers: its text, or the turn itself if it calls tools or has a thought."""
    return turn.content if turn.is_text else (turn,)


def said(turn: Turn, name: str) -> str:
    """The text of a turn where a call of tools, or a thought, has no place."""
    if not turn.is_text:
        found = next(extra for extra in ANSWER_EXTRAS if turn.extra(extra))
        raise Drop(f"field {name!r}: a turn has {found}, which are not read in this format")
    return turn.content


def _content(content: object, name: str) -> str:
    """What a turn says: text, or a list of text blocks, joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        blocks = [part.get("text", part.get("value")) for part in content if part.get("type", "text") == "text"]
        if len(blocks) == len(content) and all(isinstance(block, str) for block in blocks):
            return "".join(blocks)
        other = next((part["type"] for part in content if part.get("type", "text") != "text"), "no text")
        raise Drop(f"field {name!r}: a turn's content holds {other}, expected text alone")
    raise Drop(f"field {name!r}: a turn's content is {kind_of(content)}, expected text")


def chat_turns(row: Row, name: str) -> list[Turn]:
    """A field that is a list of chat turns, of exchanges such as {human, assistant}, or JSON text of such a list."""
    turns: list[Turn] = []
    for value in items({name: decoded(row.get(name))} if name in row else row, name):
        names = None if is_chat_turn(value) else exchange_of(value)
        if names is None:
            turns.append(chat_turn(value, name))
        else:
            turns += [Turn("user", value[names[0]]), Turn("assistant", value[names[1]])]
    if any(name in TEMPLATE_INPUTS for turn in turns[1:] if turn.more for name, _ in turn.more):
        raise Drop(f"field {name!r}: a later turn has {' or '.join(TEMPLATE_INPUTS)}, which the first may have")
    return turns


def merge_speakers(conversation: list[Turn]) -> tuple[list[Turn], tuple[str, ...]]:
    """The conversation with consecutive turns of one speaker made one, and what that repaired.

    Chat templates demand that speakers alternate.
    """
    result: list[Turn] = []
    for turn in conversation:
        if result and turn.role == result[-1].role and turn.role in ("user", "assistant"):
            joined = "\n\n".join(part for part in (result[-1].content, turn.content) if part)
            calls = [call for each in (result[-1], turn) if each.tool_calls for call in json.loads(each.tool_calls)]
            thoughts = filter(None, (each.extra(THOUGHTS[0]) for each in (result[-1], turn)))
            extras = {**dict(result[-1].more), "tool_calls": _json(calls, "tool_calls") if calls else ""}
            extras[THOUGHTS[0]] = "\n\n".join(thoughts)
            result[-1] = Turn.of(turn.role, joined, **extras)
        else:
            result.append(turn)
    return result, ("consecutive turns of one speaker merged",) if len(result) < len(conversation) else ()


def grade(row: Row) -> str:
    """The field `grade` as one of Llama 2's four grades (arXiv:2307.09288, section 3.2.1).

    It may have its long form: "significantly better", "negligibly better / unsure".
    """
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

"""What a chat template reads beside the turns: tools, and variables of its own such as `enable_thinking`.

Values for a whole run become defaults in the template's own text (`set_template_defaults`): so training, sampling and
evaluation render alike, and so does whoever loads the tokenizer that is saved with the model. Values of a row travel in
the first turn of its prompt, as JSON text, and win over the defaults.
"""

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import jinja2.meta
from jinja2.ext import Extension

from ..utils.names import hint
from .records import DataError, kind_of, name_of_call

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SETTINGS: dict[str, tuple[type, str]] = {"tools": (list, "a list"), "chat_template_kwargs": (dict, "an object")}
"""What the first turn of a prompt may bring for the template -> what it has to be."""
_DEFAULT = re.compile(r"\{% if (\w+) is not defined %\}\{% set \1 = .*? %\}\{% endif %\}\n")
"""A default at the head of a template. The line break after a block is no text of the template (`trim_blocks`)."""
_FUNCTIONS = {"raise_exception", "strftime_now"}
"""What transformers gives to every template, as it does what `_given` names."""


class Inputs(NamedTuple):
    """What a conversation brings for the template beside its turns."""

    tools: list[Any] | None
    kwargs: dict[str, Any]


def set_template_defaults(tokenizer: "PreTrainedTokenizerBase", given: Mapping[str, Any] | str | None) -> None:
    """Give variables of the tokenizer's chat template their defaults, in the place of those given before.

    Args:
        given: variable -> value, such as {"enable_thinking": False}; or JSON text of that.

    Raises:
        DataError: there is no template, or it reads no such variable; the message names those that it reads.
    """
    if not given:
        return
    values: dict[str, Any] = _decoded("chat_template_kwargs", given)
    if not tokenizer.chat_template:
        raise DataError(
            f"chat_template_kwargs={values}: this tokenizer has no chat template, which would read them: give "
            "one by chat_template_path, or leave them out"
        )
    _check_names(tokenizer, values)
    own = {name for template in _templates(tokenizer).values() for name in variables(template)} - _given(tokenizer)
    for name in values:
        if name not in own:
            known = hint(name, sorted(own)) if own else "; it reads none but the conversation"
            raise DataError(f"chat_template_kwargs: the chat template reads no variable {name!r}{known}")
    changed = {key: _with_defaults(template, values) for key, template in _templates(tokenizer).items()}
    tokenizer.chat_template = changed if isinstance(tokenizer.chat_template, dict) else changed[""]


def inputs_of(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, Any]]) -> Inputs:
    """What the first turn of a conversation brings for the template.

    Raises:
        DataError: it is something else, or a later turn brings some too.
    """
    if are_plain(messages) or not any(message.get(name) for message in messages for name in _SETTINGS):
        return Inputs(None, {})
    late = next((name for message in messages[1:] for name in _SETTINGS if message.get(name)), None)
    if late is not None:
        raise DataError(f"{late} stands in a later turn of a conversation: put it into the first turn")
    tools, kwargs = (_decoded(name, messages[0][name]) if messages[0].get(name) else None for name in _SETTINGS)
    _check_names(tokenizer, kwargs or {})
    return Inputs(tools or None, kwargs or {})


def unread_inputs(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a conversation brings tools, tool calls or variables that nothing reads: no template, or not this one."""
    if are_plain(messages):
        return False
    tools, kwargs = inputs_of(tokenizer, messages)
    calls = any(message.get("tool_calls") for message in messages)
    if not (tools or kwargs or calls):
        return False
    if not tokenizer.chat_template:
        return True
    template = tokenizer.get_chat_template(tools=tools)
    wanted = {*kwargs, *(["tools"] if tools else [])}
    return not wanted <= variables(template) or (calls and "tool_calls" not in template)


def turns_for_template(
    messages: Sequence[Mapping[str, Any]], thought: str | None, text: bool = False
) -> list[dict[str, Any]]:
    """Turns as the template takes them: tool calls as objects, and nothing that is not a turn's own.

    Args:
        thought: what the template calls the thought before an answer, if it writes thoughts.
        text: give the arguments of calls as JSON text.
    """
    return [_turn_for_template(message, thought, text) for message in messages]


def are_plain(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether turns have a role and a content alone: most do, and are rendered often."""
    return {*map(len, messages)} <= {2}


def _turn_for_template(message: Mapping[str, Any], thought: str | None, text: bool) -> dict[str, Any]:
    turn = {name: value for name, value in message.items() if name not in (*_SETTINGS, "loss") and value is not None}
    if (thinking := turn.pop("reasoning_content", None)) and thought:
        turn[thought] = thinking
    if calls := turn.pop("tool_calls", None):
        calls = _decoded("tool_calls", calls)
        turn["tool_calls"] = list(map(_with_text, calls)) if text else calls
    return turn


def _with_text(call: Any) -> Any:
    if name_of_call(call) is None or isinstance(call["function"].get("arguments", ""), str):
        return call
    arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": arguments}}


def names_of_calls(turn: Mapping[str, Any]) -> set[str]:
    """The functions that a turn calls.

    Raises:
        DataError: a call names none.
    """
    calls = _decoded("tool_calls", turn["tool_calls"])
    names = {name_of_call(call) for call in calls}
    if None in names:
        raise DataError("tool_calls hold something else than {type, function: {name, arguments}}")
    return {str(name) for name in names}


@cache
def variables(template: str) -> frozenset[str]:
    """The variables that a template reads and does not make itself.

    Raises:
        DataError: it is not valid Jinja.
    """
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols", _Generation])
    try:
        return frozenset(jinja2.meta.find_undeclared_variables(environment.parse(template)))
    except jinja2.TemplateSyntaxError as error:
        raise DataError(f"the chat template is not valid Jinja: line {error.lineno}: {error.message}") from error


class _Generation(Extension):
    """Knows the block by which templates mark answers for transformers."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _templates(tokenizer: "PreTrainedTokenizerBase") -> dict[str, str]:
    """The tokenizer's templates by name; a single one has the name ""."""
    template: Any = tokenizer.chat_template
    return dict(template) if isinstance(template, dict) else {"": template}


def _given(tokenizer: "PreTrainedTokenizerBase") -> set[str]:
    """What a template is given with every conversation, which is not for anyone else to give."""
    of_the_call = inspect.signature(tokenizer.apply_chat_template).parameters
    return {"messages", *of_the_call, *tokenizer.special_tokens_map, *_FUNCTIONS}


def _check_names(tokenizer: "PreTrainedTokenizerBase", values: Mapping[str, Any]) -> None:
    taken = next((name for name in values if name in _given(tokenizer)), None)
    if taken is not None:
        raise DataError(
            f"chat_template_kwargs has {taken!r}, which is decided with every conversation and not by a variable: "
            "leave it out"
        )


def _decoded(name: str, value: Any) -> Any:
    """A value that may have come as JSON text."""
    kind, expected = _SETTINGS.get(name, (list, "a list"))
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(f"{name} is {value!r}, expected {expected}, or JSON text of one: {error}") from error
    if not isinstance(value, kind):
        raise DataError(f"{name} is {kind_of(value)}, expected {expected}, or JSON text of one")
    return value


def _with_defaults(template: str, values: Mapping[str, Any]) -> str:
    """A template with these defaults at its head, and those that stand there already and are not among them."""
    lines: dict[str, str] = {}
    while match := _DEFAULT.match(template):
        lines[match[1]], template = match[0], template[match.end() :]
    for name, value in values.items():
        lines[name] = f"{{% if {name} is not defined %}}{{% set {name} = {_literal(value)} %}}{{% endif %}}\n"
    return "".join(lines.values()) + template


def _literal(value: Any) -> str:
    """A plain value as Jinja writes it, which is JSON but for null."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(str(key))}: {_literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if value is None:
        return "none"
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"chat_template_kwargs: {value!r} is no plain value, such as JSON has: {error}") from error

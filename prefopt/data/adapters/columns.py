"""`Columns`: a raw row that remembers which of its columns an adapter has read, so that none is left out unseen.

Which names of columns say something that must never be left out is listed here too: `TELLING`.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..records import Candidates, texts

QUESTIONS = ("prompt", "query", "question", "instruction", "input", "user_input", "user_prompt", "user_query")
"""Columns that may hold what the user said; the first that a row has counts."""
CONVERSATIONS = ("messages", "conversations", "conversation", "trajectory", "dialogue", "chat")
"""Columns that may hold a conversation as a list of turns."""
SYSTEM = ("system", "system_prompt", "system_message", "sys_prompt")
"""Columns that may hold the system turn."""
HISTORY = ("history", "context")
"""Columns that may hold earlier turns."""
LABELS = ("label", "labels", "kto_tag", "is_safe", "desirable", "accepted", "is_good", "weight", "loss_weight")
"""Columns that may say whether a single answer is a good one."""
TEMPLATE_INPUTS = ("tools", "chat_template_kwargs")
"""Columns that are for the chat template, in any format."""
TELLING = frozenset(
    (*QUESTIONS, *SYSTEM, *HISTORY, *LABELS, *TEMPLATE_INPUTS, "tool_calls", "role", "rejected", "chosen")
)
"""Columns that change what a row means, as does any that holds turns: no row is read without one of them."""


class Columns(dict[str, Any]):
    """A raw row that notes in `read` the names of the columns whose values were asked for."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As of a dict; the column counts as read."""
        self.read.add(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        """As of a dict; the column counts as read."""
        self.read.add(name)
        return super().pop(name, *default)

    def __iter__(self) -> Iterator[str]:  # a dict made from this one asks for each value by its name, then
        return super().__iter__()

    def items(self) -> Any:
        """As of a dict; all columns count as read."""
        self.read.update(self.keys())
        return super().items()

    def values(self) -> Any:
        """As of a dict; all columns count as read."""
        self.read.update(self.keys())
        return super().values()

    def unread(self) -> list[str]:
        """The columns that nobody asked for, in their order."""
        return [name for name in self if name not in self.read]

    def plain(self) -> dict[str, Any]:
        """The row as a plain dict, in which nothing counts as read."""
        return dict(super().items())  # and not `copy`, which asks this class for each value


def peek(row: Mapping[str, Any], name: str) -> Any:
    """A value that does not count as read thereby; None where the row has no such column."""
    return dict.get(row, name) if isinstance(row, dict) else row.get(name)


def decoded(value: Any) -> Any:
    """A list or an object that stands in a cell as JSON text, as in tables of flat columns; anything else as it is."""
    if not isinstance(value, str) or not value.startswith(("[", "{")) or value.rstrip()[-1:] not in ("]", "}"):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, list | dict) else value


def unread_and_telling(row: Columns, candidates: Candidates) -> str | None:
    """The first column that was not read, says what a row means, and does not merely repeat what was read."""
    said: set[str] | None = None
    for name in row.unread():
        value = peek(row, name)
        if not (name in TELLING or holds_turns(value)):
            continue
        said = {text.strip() for text in texts(candidates)} if said is None else said
        if not said.issuperset(_spoken(value)):
            return name
        row.read.add(name)
    return None


def holds_turns(value: Any) -> bool:
    """Whether this is a list of chat turns or of exchanges, or JSON text of one."""
    if isinstance(value, str):
        value = decoded(value) if value.startswith("[{") else None
    return isinstance(value, list | tuple) and bool(value) and all(map(is_turn_or_exchange, value))


EXCHANGES = (("human", "assistant"), ("input", "output"), ("user", "assistant"), ("question", "answer"))
"""What the two sides of an exchange are called, where a conversation is a list of {human, assistant}."""


def is_turn_or_exchange(value: Any) -> bool:
    """Whether this is {role, content}, {from, value} or {role, text}, or an exchange of two texts."""
    return is_chat_turn(value) or exchange_of(value) is not None


def is_chat_turn(value: object) -> bool:
    """Whether this is an object with a role: {role, content}, {from, value} or {role, text}."""
    return (type(value) is dict or isinstance(value, Mapping)) and ("role" in value or "from" in value)


def exchange_of(value: object) -> tuple[str, str] | None:
    """The names of the two sides of an exchange such as {human, assistant}; None if it is something else."""
    if not (type(value) is dict or isinstance(value, Mapping)):
        return None
    return next((names for names in EXCHANGES if all(isinstance(value.get(name), str) for name in names)), None)


def _spoken(value: Any) -> Iterator[str]:
    """Every text in a value that may hold turns, less what only names a speaker; a value that is not text as text."""
    value = decoded(value)
    if isinstance(value, Mapping):
        for name in value.keys() - {"role", "from", "type", "name"}:
            yield from _spoken(value[name])
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _spoken(part)
    elif value is not None and str(value).strip():
        yield str(value).strip()

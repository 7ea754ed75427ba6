"""`Columns`: a raw row that remembers which of its columns an adapter has read, so that none is left out unseen.

Which names of columns say something that must never be left out is listed here too: `TELLING`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ..records import Candidates, Turn, texts
from .cells import decoded, holds_turns, is_unreadable
from .file import File, is_blank

QUESTIONS = ("prompt", "query", "question", "instruction", "input", "user_input", "user_prompt", "user_query")
"""Columns that may hold what the user said; the first that a row has counts."""
CONVERSATIONS = ("messages", "conversations", "conversation", "trajectory", "dialogue", "chat")
"""Columns that may hold a conversation as a list of turns."""
SYSTEM = ("system", "system_prompt", "system_message", "sys_prompt")
"""Columns that may hold the system turn."""
HISTORY = ("history", "context")
"""Columns that may hold earlier turns."""
LABELS = (
    "label",
    "labels",
    "kto_tag",
    "is_safe",
    "desirable",
    "accepted",
    "is_good",
    "weight",
    "loss_weight",
    "selected",
    "is_selected",
    "is_chosen",
)
"""Columns that may say whether a single answer is a good one."""
TEMPLATE_INPUTS = ("tools", "chat_template_kwargs")
"""Columns that are for the chat template, in any format."""
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
"""Columns of what is no text: a row is not what it says without it."""
TELLING = frozenset(
    (*QUESTIONS, *SYSTEM, *HISTORY, *LABELS, *TEMPLATE_INPUTS, *MEDIA, "tool_calls", "role", "rejected", "chosen")
)
"""Columns that change what a row means, as does any that holds turns: no row is read without one of them."""


class Columns(dict[str, Any]):
    """A raw row that notes in `read` the names of the columns whose values were asked for.

    Args:
        file: the rows that it stands among; by default it stands alone.
    """

    def __init__(self, row: Mapping[str, Any], file: File | None = None) -> None:
        super().__init__(row)
        self.read: set[str] = set()
        self._file = file

    @property
    def file(self) -> File:
        """What the rows around it say."""
        return self._file or File((self,), QUESTIONS)

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


def file_of(row: Mapping[str, Any]) -> File:
    """The file that a row is of; alone, it is one."""
    return row.file if isinstance(row, Columns) else File((row,), QUESTIONS)


def cell(row: Mapping[str, Any], name: str) -> Any:
    """What stands in a column: text as text, unless the whole column keeps lists or objects as text."""
    value = row[name]
    if not isinstance(value, str) or not value.startswith(("[", "{", "array(")) or decoded(value) is value:
        return value
    return decoded(value) if file_of(row).is_structured(name) else value


def is_mixed(row: Mapping[str, Any], name: str) -> bool:
    """Whether a cell is the text of turns, or of turns that cannot be read, in a column of plain texts."""
    value = peek(row, name)
    if not isinstance(value, str) or not value.startswith(("[", "array(")):
        return False
    return is_unreadable(value) or (holds_turns(value) and not file_of(row).is_structured(name))


def unread_and_telling(row: Columns, candidates: Candidates) -> str | None:
    """The first column that was not read, says what a row means, and does not merely repeat what was read."""
    for name in row.unread():
        value = peek(row, name)
        if not (name in TELLING or holds_turns(value)):
            continue
        if not is_blank(value) and not _repeats(name, value, candidates):
            return name
        row.read.add(name)
    return None


def _repeats(name: str, value: Any, candidates: Candidates) -> bool:
    """Whether a column says once more what was read, in the place where it belongs.

    A label, a number and the like repeat nothing, whatever the answers say.
    """
    if name in LABELS or not isinstance(decoded(value), str | list | tuple | Mapping):
        return False
    if name in (*QUESTIONS, *SYSTEM, *HISTORY) and isinstance(decoded(value), str):
        said = {turn.content.strip() for turn in candidates.prompt}
    elif name in ("chosen", "rejected"):
        said = _answers(candidates)
    else:
        said = {text.strip() for text in texts(candidates)}
    return said.issuperset(_spoken(value))


def _answers(candidates: Candidates) -> set[str]:
    """What a column with an answer may say: the answers, and what was said before them."""
    responses = [each if isinstance(each, tuple) else (Turn("assistant", each),) for each in candidates.responses]
    return {turn.content.strip() for turns in (candidates.prompt, *responses) for turn in turns}


def _spoken(value: Any) -> Iterator[str]:
    """Every text in a value that may hold turns, less what only names a speaker; a value that is no text as text."""
    value = decoded(value)
    if isinstance(value, Mapping):
        for name in value.keys() - {"role", "from", "type", "name", "tool_call_id"}:
            yield from _spoken(value[name])
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _spoken(part)
    elif value is not None and str(value).strip():
        yield str(value).strip()

"""What the rows of a file say together, and no row says alone: which columns there are, and what their cells mean.

A column of text may hold conversations as JSON, or answers that happen to be JSON; a verdict of 1 is the first answer
in one file, and in another, that counts from 0, the second. Rows are not read by guess, one so and the next otherwise.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .cells import decoded, holds_turns, is_chat_turn

Shape = str
_OBJECTS = ("messages", "full_text", "text", "content")
"""Keys under which an object in a cell holds a text or turns."""
_SEVERAL = re.compile(r"\S\s+\S|[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]{4}")
_WHOLE = re.compile(r"\s*[-+]?\d+(?:\.0*)?\s*")


class File:
    """Rows of one file, asked for what they say together; each answer is looked for once.

    Args:
        rows: its first rows, which tell what it holds, or all of them where a format needs all.
        questions: the columns that may hold what the user said.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], questions: Sequence[str] = ()) -> None:
        self.rows, self.questions = rows, questions
        self._shapes: dict[str, set[Shape]] = {}
        self._filled: dict[str, bool] = {}
        self._numbers: dict[str, frozenset[int]] = {}
        self.notes: dict[str, Any] = {}  # what formats found, by names of their own

    def fills(self, name: str) -> bool:
        """Whether some row says something in this column."""
        if name not in self._filled:
            self._filled[name] = any(not is_blank(_cell(row, name)) for row in self.rows)
        return self._filled[name]

    def shapes(self, name: str) -> set[Shape]:
        """What the texts of a column are: "turns", "object" (that holds a question), "texts" (a list), or "plain"."""
        if name not in self._shapes:
            cells = (_cell(row, name) for row in self.rows)
            self._shapes[name] = {_shape(cell) for cell in cells if isinstance(cell, str) and cell.strip()}
        return self._shapes[name]

    def is_structured(self, name: str) -> bool:
        """Whether every text of a column stands for a list or an object, of a shape that turns have.

        Lists of texts may as well be answers in JSON: they count where those who ask are kept so, too.
        """
        shapes = self.shapes(name)
        if shapes == {"texts"}:
            return any(self.shapes(question) == shapes for question in self.questions)
        return bool(shapes) and shapes <= ({"turns", "object"} if name in self.questions else {"turns"})

    def whole_numbers(self, name: str) -> frozenset[int]:
        """The whole numbers in a column, those that are spelled as text among them."""
        if name not in self._numbers:
            found = (whole_number(_cell(row, name)) for row in self.rows)
            self._numbers[name] = frozenset(number for number in found if number is not None)
        return self._numbers[name]

    def wordy(self, but: Sequence[str]) -> str | None:
        """The first column, but for these, that has a text of several words somewhere, in whatever it holds."""
        key = f"wordy but {but}"
        if key not in self.notes:
            names = dict.fromkeys(name for row in self.rows for name in row if name not in but)
            found = (name for name in names if any(_is_wordy(_cell(row, name)) for row in self.rows))
            self.notes[key] = next(found, None)
        return self.notes[key]  # type: ignore[no-any-return]


def is_blank(value: Any) -> bool:
    """Whether a cell says nothing."""
    return value is None or value == [] or value == {} or (isinstance(value, str) and not value.strip())


def whole_number(value: Any) -> int | None:
    """A whole number, or text that spells one; None for anything else, true and false among them."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(float(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if float(value).is_integer() else None


def _cell(row: Mapping[str, Any], name: str) -> Any:
    return dict.get(row, name) if isinstance(row, dict) else row.get(name)  # no such look counts as reading


def _shape(text: str) -> Shape:
    """What a text stands for, see `File.shapes`."""
    value = decoded(text)
    if holds_turns(value) or is_chat_turn(value):
        return "turns"
    if isinstance(value, Mapping):
        return "object" if any(name in value for name in _OBJECTS) else "plain"
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return "texts"
    return "plain"


def _is_wordy(value: Any) -> bool:
    if isinstance(value, str):
        return _SEVERAL.search(value) is not None
    if isinstance(value, Mapping):
        return any(map(_is_wordy, value.values()))
    return isinstance(value, list | tuple) and any(map(_is_wordy, value))

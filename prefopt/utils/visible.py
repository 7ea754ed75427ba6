r"""Text from rows, models and files as it may be shown: whatever would act unseen on a screen is written out.

Escape sequences move a terminal's cursor or change its title, direction overrides turn what follows around, and
characters without width hide in names. Each is shown as Python writes it, such as \x1b or \u202e.
"""

from __future__ import annotations

import json
import logging
import re
import reprlib
import unicodedata
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

UNSEEN = ("Cc", "Cf", "Zl", "Zp")
"""Unicode's categories of controls, formats (directions, no width), and line and paragraph ends."""
LINE_END = "↵"

_JOINERS = "\u200c\u200d"
"""They shape letters of many scripts, and emojis; beside ASCII they can only hide."""
_SUSPECT = re.compile(r"[^\x20-\x7e\u00a1-\u00ac\u00ae-\u02ff\u3000-\u9fff\uff01-\uff5e]")
"""What may be unseen: all but printable ASCII, Latin letters, and Chinese characters with their punctuation."""
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxdict, _BRIEF.maxlist, _BRIEF.maxtuple = 4, 8, 8, 8
_BRIEF.maxstring, _BRIEF.maxother = 200, 200


def visible(text: str) -> str:
    """A text of any number of lines with what is unseen written out; line ends and tabs stay."""
    return _SUSPECT.sub(_written_out, text)


def one_line(text: str) -> str:
    """As `visible`, on one line: line ends as ↵, tabs written out."""
    return visible(text.replace("\r\n", "\n")).replace("\n", LINE_END).replace("\t", "\\t")


def visible_json(text: str) -> str:
    """JSON of the same meaning with what is unseen in it written as JSON writes it."""
    return _SUSPECT.sub(lambda found: json.dumps(found[0])[1:-1] if _is_unseen(found) else found[0], text)


def bounded(text: str, characters: int) -> str:
    """A text of at most so many characters, and how many more there were."""
    left = len(text) - characters
    return text if left <= 0 else f"{text[:characters]} … ({left:,} more characters)"


def shown(value: object, characters: int = 200) -> str:
    """A value as Python writes it, in so many characters, however much it holds."""
    return bounded(visible(_BRIEF.repr(value)), characters)


def _written_out(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1] if _is_unseen(found) else found[0]


def _is_unseen(found: re.Match[str]) -> bool:
    character, text, place = found[0], found.string, found.start()
    if character in "\n\t" or text.startswith("\r\n", place):
        return False
    if character in _JOINERS and 0 < place < len(text) - 1:
        return text[place - 1].isascii() or text[place + 1].isascii()
    return unicodedata.category(character) in UNSEEN


def visible_parts(value: Any) -> Any:
    """A copy of plain values and dataclasses in which every text is visible."""
    if type(value) is str:
        return visible(value)
    if isinstance(value, Mapping):
        return {visible_parts(name): visible_parts(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(visible_parts, value))
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return replace(value, **{name: visible_parts(part) for name, part in parts.items()})
    return value


class VisibleFormatter(logging.Formatter):
    """Formats what is logged, which may hold texts of rows and models, as a terminal may show it."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))

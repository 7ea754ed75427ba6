"""Tells of a column that nobody reads whether it may say something about its row: turns, a judgement, or a text."""

import re
from typing import Any

from .adapters.columns import TELLING, holds_turns

_JUDGING = re.compile(
    r"(?<![a-z])(labels?|scores?|ranks?|rankings?|rewards?|ratings?|weights?|preferences?|preferred|winner|better|best|"
    r"votes?|upvotes|choice|safe|safer|good|bad|correct|chosen|rejected|margin|grade|loss)(?![a-z])"
)
"""Words in the names of columns that judge answers."""
_TEXT = re.compile(r"(\S+\s+){5}\S|[\u3001-\u30ff\u4e00-\u9fff\uac00-\ud7af\uff01-\uff20]{12}")
"""Six words, or twelve characters of a script that writes no spaces, its punctuation among them."""


def tells(name: str, value: Any) -> bool:
    """Whether a column of this name, with this in it, may say something that its row should not be read without."""
    if name in TELLING or _JUDGING.search(name.lower()):
        return True
    return holds_turns(value) or (isinstance(value, str) and _TEXT.search(value) is not None)

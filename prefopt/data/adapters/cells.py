"""What stands in a cell: turns, exchanges and objects, as such or as the text that tables of flat columns keep of them.

Text is JSON, or what Python prints of a list of objects (`to_csv` of pandas writes it, with numpy's line ends in the
place of commas). Whether the text of one cell means that is for its whole column to say, see `file.py`.
"""

import ast
import io
import json
import re
import tokenize
from collections.abc import Mapping
from typing import Any

_PRINTED = re.compile(r"(?:array\()?\[?\s*\{\s*'\w+'\s*:")
"""How Python's text of an object, or of a list or array of them, begins."""
_SAYS_WHO = re.compile(r"'(?:role|from)'\s*:")

EXCHANGES = (("human", "assistant"), ("input", "output"), ("user", "assistant"), ("question", "answer"))
"""What the two sides of an exchange are called, where a conversation is a list of {human, assistant}."""


def decoded(value: Any) -> Any:
    """A list or an object that stands in a cell as text, of JSON or of Python; anything else as it is."""
    if not isinstance(value, str) or not value.startswith(("[", "{", "array(")):
        return value
    if value.rstrip()[-1:] not in ("]", "}", ")"):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = _printed(value) if _PRINTED.match(value) else None
    return found if isinstance(found, list | dict) else value


def is_unreadable(value: Any) -> bool:
    """Whether this is text that Python printed of turns, and that says no longer what they were: cut, for example."""
    return (
        isinstance(value, str) and bool(_PRINTED.match(value) and _SAYS_WHO.search(value)) and decoded(value) is value
    )


def _printed(text: str) -> Any:
    """The plain values that Python's text of them says; None where it holds anything else."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    try:
        return ast.literal_eval(_with_commas(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
        return None


def _with_commas(text: str) -> str:
    """Python's text of a list with the commas that numpy leaves out between objects, and without `array(...)`."""
    said = [t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type not in _LAYOUT]
    kept: list[str] = []
    place = 0
    while place < len(said):
        noise = next((noise for noise in _NUMPY if said[place : place + len(noise)] == noise), None)
        if noise is not None:
            place += len(noise)
            continue
        if kept and kept[-1] in ("}", "]") and said[place] in ("{", "["):
            kept.append(",")
        kept.append(said[place])
        place += 1
    return " ".join(kept)


_NUMPY = (["array", "("], [",", "dtype", "=", "object", ")"])
"""What numpy writes around the list of an array of objects."""
_LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT)


def holds_turns(value: Any) -> bool:
    """Whether this is a list of chat turns or of exchanges, or the text of one."""
    if isinstance(value, str):
        value = decoded(value) if value.startswith(("[{", "[ {", "array(")) else None
    return isinstance(value, list | tuple) and bool(value) and all(map(is_turn_or_exchange, value))


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

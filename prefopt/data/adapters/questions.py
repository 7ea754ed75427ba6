"""The prompt of formats with separate columns: what the user said as text, as turns, as a tagged or ChatML transcript.

Adapters of several families read their prompts with these functions; no format is registered here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..records import Turn, kind_of
from .cells import decoded, is_chat_turn
from .columns import CONVERSATIONS, HISTORY, QUESTIONS, cell, is_mixed, peek
from .fields import ROLES, Drop, Row, chat_turn, chat_turns, first_key, is_chat, merge_speakers, text
from .opening import earlier_turns
from .transcripts import tagged_prompt

_CHATML = re.compile(r"<\|im_start\|>([^\n<]+)\n(.*?)(?:<\|im_end\|>\s*|\Z)", re.DOTALL)
_CHATML_END = "<|im_end|>"
_WHOLE_TEXT = ("full_text", "text", "content")
"""Keys that hold the question where the column is an object."""


@dataclass(frozen=True)
class Prompt:
    """What a row asks.

    Args:
        turns: as in `Candidates`.
        repairs: what had to be mended.
        verbatim: whether the answers belong to it as they came, with the space around them.
        closing: what its transcript writes after an answer, which is no part of it.
        transcript: whether it is one text of several speakers; the space around an answer is of the text, then.
    """

    turns: tuple[Turn, ...]
    repairs: tuple[str, ...] = ()
    verbatim: bool = False
    closing: str = ""
    transcript: bool = False

    def answer(self, text: str) -> str:
        """An answer as it came; in a transcript less the space around it and what closes it."""
        return text.strip().removesuffix(self.closing).strip() if self.transcript else text


def prompt_of(row: Row, names: Sequence[str] = QUESTIONS, *, alone: bool = False) -> Prompt | None:
    """The prompt of a row: a question, else the turns of a conversation, else an earlier text; None if it has none.

    A plain text is a user's turn, but for the column `prompt`, whose text stays verbatim as in TRL.

    Args:
        names: of the columns that may hold a question, the first first.
        alone: look for a question only.

    Raises:
        Drop: the column has another form; the message names it.
    """
    there = [name for name in names if name in row]
    name = next((name for name in there if row[name] not in ("", [], {})), None)
    if name is not None:
        return asked(row, name)
    if alone:
        return None
    name = next((name for name in (*CONVERSATIONS, *HISTORY) if name in row and row[name]), None)
    if name is None:
        return Prompt((Turn("text", ""),), verbatim=True) if there else None
    value = decoded(row[name])
    if isinstance(value, str):
        return of_text(value, verbatim=False)
    turns = earlier_turns(row, name) if name in HISTORY else chat_turns(row, name)  # type: ignore[arg-type]
    merged, repairs = merge_speakers(turns)
    return Prompt(tuple(merged), repairs)


def prompt_or_drop(row: Row) -> Prompt:
    """The prompt of a row that has to have one."""
    prompt = prompt_of(row)
    if prompt is None:
        raise Drop("no prompt")
    return prompt


def asked(row: Row, name: str) -> Prompt:
    """The prompt in one column, see `prompt_of`; an instruction has its input on the next line."""
    value = whole(row, name)
    if name == "instruction":
        return of_text(_instruction(row), verbatim=False)
    if isinstance(value, str):
        return of_text(value, verbatim=name == "prompt")
    if isinstance(value, Mapping) and not is_chat_turn(value):
        value = _of_object(value, name)
    if is_chat_turn(value):
        value = [value]
    if is_chat(value):
        return Prompt(tuple(chat_turns({name: value}, name)), verbatim=True)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return Prompt((Turn("user", value[0].strip()),))
    return of_text(text({name: value}, name), verbatim=name == "prompt")


def _of_object(value: Mapping[str, Any], name: str) -> Any:
    if is_chat(value.get("messages")):
        first, *others = decoded(value["messages"])
        return [{**first, "tools": value["tools"]}, *others] if value.get("tools") else value["messages"]
    key = first_key(dict(value), _WHOLE_TEXT)
    if key is None:
        raise Drop(f"field {name!r}: is an object with the fields {', '.join(value)}, expected text or turns")
    return value[key]


def of_text(value: str, *, verbatim: bool) -> Prompt:
    """A prompt in text: the turns of a transcript or of ChatML, else bare text or a user's turn."""
    if turns := chatml_turns(value):
        return Prompt(tuple(turns), closing=_CHATML_END, transcript=True)
    if (tagged := tagged_prompt(value)) is not None:
        return Prompt(*tagged, transcript=True)
    return Prompt((Turn("text", value),), verbatim=True) if verbatim else Prompt((Turn("user", value.strip()),))


def _instruction(row: Row) -> str:
    """Alpaca's instruction with its input on the next line; Dolly calls the input `context`."""
    names = [name for name in ("instruction", "input", "context") if isinstance(peek(row, name), str)]
    return "\n".join(part for part in (text(row, name).strip() for name in names) if part)


def chatml_turns(value: str) -> list[Turn]:
    """The turns of a text in ChatML, less an empty assistant turn at its end; none if it is something else."""
    if not value.lstrip().startswith("<|im_start|>") or _CHATML.sub("", value).strip():
        return []
    said = [(role.strip().lower(), content.strip()) for role, content in _CHATML.findall(value)]
    if any(role not in ROLES for role, _ in said):
        return []
    turns = [Turn(ROLES[role], content) for role, content in said]
    return turns[:-1] if turns[-1] == Turn("assistant", "") else turns


def whole(row: Row, name: str) -> Any:
    """What stands in a column that may hold text or turns.

    Raises:
        Drop: the text of turns in a column of plain texts, or one that cannot be read.
    """
    if is_mixed(row, name):
        raise Drop(
            f"field {name!r}: has the text of turns, which is cut or no JSON, or other rows have plain text there: "
            "write turns as JSON, in every row or in none"
        )
    return cell(row, name)


def answer_in(row: Row, name: str) -> list[Turn] | str:
    """The answer in a column, see `answer_turn`."""
    return answer_turn(whole(row, name), name)


def answer_turn(value: Any, name: str) -> list[Turn] | str:
    """An answer as text, or as the turns that hold it, whichever way the column `name` has it."""
    if isinstance(value, str):
        return value
    if is_chat_turn(value):
        return [chat_turn(value, name)]
    if is_chat(value):
        return chat_turns({name: value}, name)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return value[0]
    expected = "one answer as text or as turns" if isinstance(value, list | dict) else "text"
    raise Drop(f"field {name!r}: is {kind_of(value)}, expected {expected}")

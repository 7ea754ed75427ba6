"""What stands before a prompt in any format: the system turn, and earlier turns of the conversation."""

from dataclasses import replace

from ..records import Candidates, Turn, kind_of
from .columns import HISTORY, SYSTEM, Columns, decoded, holds_turns
from .fields import Drop, chat_turns, items

_OPENING = frozenset((*SYSTEM, *HISTORY, "tools"))


def opened(row: Columns, candidates: Candidates) -> Candidates:
    """The record with the system turn and the history that stand in columns of their own, unless they were read.

    Raises:
        Drop: such a column that cannot stand before the prompt; the message names it.
    """
    if _OPENING.isdisjoint(row.keys()):
        return candidates
    unread = [name for name in row.unread() if name in _OPENING]
    system, history = _system(row, unread), _history(row, unread)
    _refuse_tools(row, unread)
    if not (system or history):
        return candidates
    prompt = candidates.prompt
    if prompt and prompt[0].role == "system" and system:
        if prompt[0].content.strip() != system[0].content.strip():
            raise Drop("two different system turns, one in a column and one in the conversation")
        system = []
    if prompt and prompt[0].role == "text":
        if not prompt[0].content.strip():
            raise Drop(f"field {unread[0]!r}: cannot stand before a text without a prompt")
        prompt = (Turn("user", prompt[0].content.strip()),)
    return replace(candidates, prompt=(*system, *history, *prompt))


def _system(row: Columns, unread: list[str]) -> list[Turn]:
    for name in unread:
        if name in SYSTEM and (value := row[name]):
            if not isinstance(value, str):
                raise Drop(f"field {name!r}: is {kind_of(value)}, expected the text of a system turn")
            return [Turn("system", value)] if value.strip() else []
    return []


def _history(row: Columns, unread: list[str]) -> list[Turn]:
    turns: list[Turn] = []
    for name in unread:
        if name in HISTORY and (value := row[name]) not in ("[]", "[[]]"):
            turns += earlier_turns(row, name) if value else []
    return turns


def earlier_turns(row: Columns, name: str) -> list[Turn]:
    """A column with earlier turns: [question, answer] pairs, chat turns, exchanges, or JSON text of one of these."""
    value = decoded(row[name])
    if holds_turns(value):
        return chat_turns({name: value}, name)
    if isinstance(value, str):
        raise Drop(
            f"field {name!r}: is text beside the prompt, expected turns; map it by `columns` if it is the prompt"
        )
    turns: list[Turn] = []
    for exchange in items({name: value}, name):
        if not (
            isinstance(exchange, list | tuple) and len(exchange) == 2 and all(isinstance(p, str) for p in exchange)
        ):
            raise Drop(f"field {name!r}: expected [question, answer] pairs")
        turns += [Turn("user", exchange[0]), Turn("assistant", exchange[1])]
    return turns


def _refuse_tools(row: Columns, unread: list[str]) -> None:
    if "tools" in unread and decoded(row["tools"]) not in ("", [], {}):
        raise Drop("field 'tools': holds tools, which are not given to the chat template; write them into `system`")

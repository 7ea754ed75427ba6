"""The turns of a conversation that instructions stand in, and what a model says to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..records import DataError, Messages

Respond = Callable[[list[list[dict[str, str]]]], Sequence[Any]]
"""Prompts -> a reply to each: text, or anything with `text` and `finished`."""


class Reply(NamedTuple):
    """What was replied, and whether it came to its end."""

    text: str
    finished: bool


def with_instruction(messages: Messages, text: str, *, every: bool = True) -> list[dict[str, str]]:
    """A conversation with an instruction before what the user says, in every turn or in the first one only.

    Raises:
        DataError: the user says nothing in it, or it is bare text without speakers.
    """
    opened(messages)
    left, turns = True, []
    for turn in messages:
        instructed = turn["role"] == "user" and left
        turns.append({**turn, "content": f"{text}\n\n{turn['content']}"} if instructed else dict(turn))
        left = left and (every or not instructed)
    return turns


def asked(conversation: Messages) -> list[int]:
    """Where the user speaks."""
    return [number for number, turn in enumerate(conversation) if turn["role"] == "user"]


def opened(conversation: Messages) -> list[dict[str, str]]:
    """What is said before the user speaks.

    Raises:
        DataError: the user never does.
    """
    places = asked(conversation)
    if not places:
        roles = ", ".join(str(turn["role"]) for turn in conversation) or "no turns"
        raise DataError(f"a conversation of {roles} has no user's turn that an instruction could stand in")
    return [dict(turn) for turn in conversation[: places[0]]]


def said_by(respond: Respond, prompts: list[list[dict[str, str]]]) -> list[Reply]:
    """The replies to prompts.

    Raises:
        ValueError: not one for each.
    """
    replies = list(respond(prompts)) if prompts else []
    if len(replies) != len(prompts):
        raise ValueError(f"respond gave {len(replies)} replies to {len(prompts)} prompts: give one for each")
    return [Reply(one, True) if isinstance(one, str) else Reply(str(one.text), bool(one.finished)) for one in replies]

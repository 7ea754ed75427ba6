"""What a preference record is, in text; knows no file format, no tokenizer and no tensor."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Messages = Sequence[Mapping[str, str]]
"""A conversation, or a prompt: each turn has a `role` and a `content`."""


class DataError(ValueError):
    """Data that cannot be used; the message says what, where, and what to do instead."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation.

    Roles are "system", "user", "assistant", "tool", and "text" for a prompt that came as bare text: it has no speaker
    and is encoded verbatim, without a template.
    """

    role: str
    content: str


# A response is the answer's text, or, for a conversation with several answers, every turn after the prompt.
Response = str | tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Candidates:
    """A prompt with its responses, best first when an order is known. A pair is two candidates; SFT has one.

    `scores` has one number per response. `finished` says of each whether it ended by itself, with a stop token, and was
    not cut off; None means that all did. `repairs` names what an adapter had to mend in the raw row.
    """

    prompt: tuple[Turn, ...]
    responses: tuple[Response, ...] = ()
    scores: tuple[float, ...] | None = None
    margin: float | None = None
    grade: str | None = None
    finished: tuple[bool, ...] | None = None
    repairs: tuple[str, ...] = ()


def texts(candidates: Candidates) -> Iterator[str]:
    """Every piece of text in a record."""
    for turn in candidates.prompt:
        yield turn.content
    for response in candidates.responses:
        if isinstance(response, str):
            yield response
        else:
            yield from (turn.content for turn in response)


def kind_of(value: object) -> str:
    """What a value is, in words for people who know JSON."""
    if value is None:
        return "null"
    words = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return words.get(type(value), f"a {type(value).__name__}")

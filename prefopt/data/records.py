"""What a row means once an adapter has read it: a prompt and its responses as text, in one form for every format.

Here stand the types that the rest of prefopt speaks of: `Candidates`, `Turn`, `Messages`, and `DataError`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Messages = Sequence[Mapping[str, str]]
"""A conversation, or a prompt: each turn has a `role` and a `content`, and some of `TURN_EXTRAS`."""

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""What the thought before an answer is called in an assistant's turn."""
TEXTS_BESIDE = {"assistant": THOUGHTS, "tool": ("tool_call_id", "name")}
"""Role -> the texts that its turns may have beside their content; those of other roles are not read."""
_TEXTS = (THOUGHTS[0], *TEXTS_BESIDE["tool"])
TURN_EXTRAS = ("tool_calls", "tools", "chat_template_kwargs", "loss", *_TEXTS)
"""What turns may have beside a role and a content, as text.

As JSON text: what an assistant calls, and, in the first turn of a prompt, the tools that it may call and the values of
the template's own variables; "false" as the loss of an answer that is not trained on. As it came: what an assistant
thought before its answer, and of a tool's turn the call that it answers and the tool's name.
"""
ANSWER_EXTRAS = ("tool_calls", "reasoning_content")
"""Those of them that an answer may have; rows of text keep them in columns of these names, a value for each answer."""


class DataError(ValueError):
    """Data that cannot be used; the message says what, where, and what to do instead."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation.

    Roles are "system", "user", "assistant", "tool", and "text" for a prompt that came as bare text: it has no speaker
    and is encoded verbatim, without a template. `more` has what the turn has of `TURN_EXTRAS`, in most nothing: pairs
    of a name and JSON text, as `Turn.of` makes them.
    """

    role: str
    content: str
    more: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, role: str, content: str, **extras: str) -> "Turn":
        """A turn with extras by their names; those that are empty are left out."""
        return cls(role, content, tuple((name, extras[name]) for name in TURN_EXTRAS if extras.get(name)))

    def uncounted(self) -> "Turn":
        """The same turn as one that is not trained on."""
        return Turn.of(self.role, self.content, **{**dict(self.more), "loss": "false"})

    @property
    def counts(self) -> bool:
        """Whether it is trained on, if it is an answer."""
        return not self.more or ("loss", "false") not in self.more

    @property
    def message(self) -> dict[str, str]:
        """The turn as a row of text has it, without the extras that it does not have."""
        message = {"role": self.role, "content": self.content}
        return message | dict(self.more) if self.more else message

    def extra(self, name: str) -> str:
        """What the turn has under one of `TURN_EXTRAS`; "" for nothing."""
        return dict(self.more).get(name, "") if self.more else ""

    @property
    def tool_calls(self) -> str:
        """The tools that the turn calls, as JSON text; "" for none."""
        return self.extra("tool_calls")

    @property
    def is_text(self) -> bool:
        """Whether what it says is its content alone: it calls no tools, and has no thought beside the content."""
        return not self.more or not any(self.extra(name) for name in ANSWER_EXTRAS)


Response = str | tuple[Turn, ...]
"""The answer's text; or every turn after the prompt, if the answer has `ANSWER_EXTRAS`, or there are several."""

FINISH_REASONS = ("stop", "other_stop", "stop_string", "length")
"""What ended a response: the stop token that ends responses in training; another stop token; a text that the caller
stops at; or the length limit. A response is terminated by the first alone; the others leave it without a stop token."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """A prompt with its responses, best first when an order is known. A pair is two candidates; SFT has one.

    This is what an adapter returns for a row.

    Args:
        prompt: its turns, the last of them the user's; one turn of the role "text" for bare text.
        responses: none, where the row is a prompt only.
        scores: one number for each response.
        margin: by how much the chosen response of a pair is better.
        grade: the same as one of `prefopt.grades.GRADES`.
        finished: for each response, whether it is terminated: the model ended it by itself, with a stop token. One that
            was truncated gets no stop token in training. None means that all are terminated.
        sampled_ids: for each response the ids that a policy sampled, () where they are not known.
        sampled_by: the fingerprint of the tokenizer that these ids are of, see `tokenizer_identity.py`.
        label: whether a single response is a good one, where a row says it: what KTO and BCO learn from.
        repairs: what the adapter had to mend in the raw row, in words that are the same for rows alike.
    """

    prompt: tuple[Turn, ...]
    responses: tuple[Response, ...] = ()
    scores: tuple[float, ...] | None = None
    margin: float | None = None
    grade: str | None = None
    finished: tuple[bool, ...] | None = None
    sampled_ids: tuple[tuple[int, ...], ...] | None = None
    sampled_by: str | None = None
    label: bool | None = None
    repairs: tuple[str, ...] = ()


def responses_of(row: Mapping[str, Any]) -> list[str]:
    """The responses of a row of text, as the load functions give it: of a list, a pair or a single one; or none."""
    if "responses" in row:
        return list(row["responses"])
    return [row[name] for name in ("chosen", "rejected", "response") if name in row]


def are_texts(row: Mapping[str, Any]) -> list[bool]:
    """Of the responses of a row of text, which are texts alone: without calls of tools, and without a thought."""
    extras = [row.get(name) or [] for name in ANSWER_EXTRAS]
    return [not any(found[k : k + 1] and found[k] for found in extras) for k in range(len(responses_of(row)))]


def texts(candidates: Candidates) -> list[str]:
    """Every text in a record: the responses, what the prompt's turns say, and what else is said in them."""
    said = [response for response in candidates.responses if isinstance(response, str)]
    turns = candidates.prompt
    for response in candidates.responses:
        if not isinstance(response, str):
            turns += response
    for turn in turns:
        said.append(turn.content)
        if turn.more:
            said += [value for _, value in turn.more]
    return said


def plain_turn(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn with what is known of turns and not null: a table has a field for every extra that any turn has."""
    extras = {name: turn[name] for name in TURN_EXTRAS if turn.get(name)}
    return {"role": turn["role"], "content": turn["content"], **extras}


def decoded_extras(turn: Mapping[str, Any]) -> dict[str, Any]:
    """What a turn has of `TURN_EXTRAS`, with JSON text as what it stands for."""
    return {name: turn[name] if name in _TEXTS else json.loads(turn[name]) for name in TURN_EXTRAS if turn.get(name)}


def is_answer(turn: Mapping[str, Any]) -> bool:
    """Whether a turn is one of the assistant that is trained on."""
    return bool(turn["role"] == "assistant" and turn.get("loss") != "false")


def name_of_call(call: Any) -> str | None:
    """The function that a call calls, None if it names none."""
    function = call.get("function") if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) and name else None


def kind_of(value: object) -> str:
    """What kind of value this is, in words for people who know JSON: "a number", "a list", "null"."""
    if value is None:
        return "null"
    words = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return words.get(type(value), f"a {type(value).__name__}")

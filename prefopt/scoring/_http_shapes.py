"""What a service that scores is sent, and what it sends back: vLLM's `/score` and `/pooling`, and a shape of our own.

json          {"prompts": [[{"role", "content"}, ...]], "responses": [texts], "finished": [booleans]}
              -> {"scores": [numbers]}, one for each response, in their order.
vllm-score    {"text_1": [prompts], "text_2": [responses]} -> {"data": [{"index", "score"}]}. vLLM puts the two texts
              one after the other, or into a template for scores (`vllm serve --chat-template`), and never into the
              model's own chat template. So this is for cross-encoders; it cannot say that a response was cut off.
vllm-pooling  {"messages": [turns with the response]} -> {"data": [{"data": [number]}]}. vLLM writes the conversation
              by the model's chat template. So this is for reward models. A request holds one conversation.

The vLLM shapes are those of vLLM 0.32 (`vllm/entrypoints/pooling/{scoring,pooling}/protocol.py`); earlier versions know
the names used here too. With them the model's own numbers are asked for, as `use_activation` is false: vLLM's default
is a sigmoid of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..data.records import TURN_EXTRAS, Messages, decoded_extras
from ..data.template import SPEAKERS, is_bare


class Row(NamedTuple):
    """A response to be scored."""

    prompt: Messages
    response: str
    finished: bool


class Unsendable(ValueError):
    """A row says something that the shape has no place for; the message says what."""


@dataclass(frozen=True)
class Shape:
    """How a request is written and its answer read.

    Args:
        body: rows -> what JSON holds. Raises `Unsendable`.
        read: what came back -> the scores in the order of the rows. Raises LookupError, TypeError or ValueError where
            that has another form.
        most: rows in a request; None for as many as one likes.
    """

    body: Callable[[Sequence[Row]], dict[str, Any]]
    read: Callable[[Any], list[Any]]
    most: int | None = None


def shape_of(url: str) -> str:
    """The shape that a URL's path stands for: vLLM's names of its own two, else "json"."""
    return {"score": "vllm-score", "pooling": "vllm-pooling"}.get(urlsplit(url).path.rstrip("/").split("/")[-1], "json")


def _json_body(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "prompts": [[_turn(turn) for turn in row.prompt] for row in rows],
        "responses": [row.response for row in rows],
        "finished": [row.finished for row in rows],
    }


def _turn(turn: Mapping[str, str]) -> dict[str, Any]:
    """A turn whose extras, which rows hold as JSON text, are JSON."""
    return {"role": turn["role"], "content": turn["content"], **decoded_extras(turn)}


def _score_body(rows: Sequence[Row]) -> dict[str, Any]:
    texts = [_as_text(row.prompt) for row in rows]
    return {"text_1": texts, "text_2": [row.response for row in rows], "use_activation": False}


def _as_text(prompt: Messages) -> str:
    """A prompt as one text: what the user says, or of several turns a transcript."""
    _without(prompt, TURN_EXTRAS)
    if is_bare(prompt) or [turn["role"] for turn in prompt] == ["user"]:
        return "".join(turn["content"] for turn in prompt)
    return "".join(SPEAKERS.get(turn["role"], "\n\n") + turn["content"] for turn in prompt).strip()


def _without(prompt: Messages, names: Sequence[str]) -> None:
    if found := sorted({name for turn in prompt for name in names if turn.get(name)}):
        raise Unsendable(f"a prompt has {' and '.join(found)}, for which this shape has no place: take the shape json")


def _pooling_body(rows: Sequence[Row]) -> dict[str, Any]:
    ((prompt, response, finished),) = rows
    if is_bare(prompt):
        text = "".join(turn["content"] for turn in prompt) + response
        return {"input": [text], "use_activation": False}
    _without(prompt, ("tools",))
    turns = [_turn(turn) for turn in prompt]
    more = {name: turns[0].pop(name) for name in ("chat_template_kwargs",) if name in turns[0]}
    if not finished:  # which ends without a stop token, as in training
        more["continue_final_message"] = True
    return {"messages": [*turns, {"role": "assistant", "content": response}], "use_activation": False, **more}


def _read_data(answer: Any, name: str) -> list[Any]:
    """What stands under `name` in vLLM's list, in the order of its indices."""
    found = {entry["index"]: entry[name] for entry in answer["data"]}
    if set(found) != set(range(len(answer["data"]))):
        raise ValueError("indices")
    return [found[number] for number in range(len(found))]


def _read_pooled(answer: Any) -> list[Any]:
    return [_only(data) for data in _read_data(answer, "data")]


def _only(data: Any) -> Any:
    """The one number of a response; a model that gives several, for labels or for tokens, is no reward model here."""
    while isinstance(data, list) and len(data) == 1:
        data = data[0]
    if isinstance(data, list):
        raise ValueError(f"{len(data)} numbers for one response, so that this is no model with a single label")
    return data


SHAPES = {
    "json": Shape(_json_body, lambda answer: list(answer["scores"])),
    "vllm-score": Shape(_score_body, lambda answer: _read_data(answer, "score")),
    "vllm-pooling": Shape(_pooling_body, _read_pooled, most=1),
}

"""Records as a `datasets.Dataset` of text, with the same columns for every format."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .records import ANSWER_EXTRAS, TURN_EXTRAS, Candidates, Response, Turn

if TYPE_CHECKING:
    import datasets


def to_dataset(records: list[Candidates], kind: str) -> "datasets.Dataset":
    """Records of one kind ("pair", "list", "sft", "prompt") as a table; columns nobody filled are left out."""
    import datasets
    import pyarrow

    types: dict[str, Any] = {name: datasets.Value("float64") for name in ("margin", "score_chosen", "score_rejected")}
    types |= {name: datasets.Value("string") for name in ("chosen", "rejected", "response", "grade")}
    types |= {"label": datasets.Value("bool"), "sampled_by": datasets.Value("string")}
    types["sampled_ids"] = datasets.List(datasets.List(datasets.Value("int32")))
    lists = {"responses": "string", "scores": "float64", "finished": "bool", **dict.fromkeys(ANSWER_EXTRAS, "string")}
    types |= {name: datasets.List(datasets.Value(kind)) for name, kind in lists.items()}
    columns = {"prompt": [_plain(record.prompt) for record in records], **_COLUMNS[kind](records)}
    columns = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    types |= {name: _chat_type(columns[name]) for name in ("prompt", "later_turns") if name in columns}
    schema = datasets.Features({name: types[name] for name in columns}).arrow_schema
    # `Dataset.from_dict` would look at every cell in Python, whose types are known here.
    return datasets.Dataset(datasets.table.InMemoryTable(pyarrow.Table.from_pydict(columns, schema=schema)))


def _chat_type(chats: Iterable[list[dict[str, str]]]) -> Any:
    """The type of conversations: of the extras, those that some turn has."""
    import datasets

    some = {"role", "content"} | {name for chat in chats for turn in chat if len(turn) > 2 for name in turn}
    return datasets.List({n: datasets.Value("string") for n in ("role", "content", *TURN_EXTRAS) if n in some})


def _plain(chat: Iterable[Turn]) -> list[dict[str, str]]:
    return [turn.message for turn in chat]


def _text(response: Response) -> str:
    """What a response says; of several turns, what the first of them says."""
    return response if isinstance(response, str) else response[0].content


def _extras(records: list[Candidates], count: int | None = None) -> dict[str, list[Any]]:
    """What the first `count` answers of each record have beside their text, such as the tools that they call."""
    kept = [record.responses[:count] for record in records]
    if all(isinstance(response, str) for responses in kept for response in responses):
        return {}
    return {name: [_extra(responses, name) for responses in kept] for name in ANSWER_EXTRAS}


def _extra(responses: Iterable[Response], name: str) -> list[str | None] | None:
    """What each response has under a name, None where none has anything."""
    found = [None if isinstance(response, str) else response[0].extra(name) or None for response in responses]
    return found if any(found) else None


def _pair_columns(records: list[Candidates]) -> dict[str, list[Any]]:
    return {
        "chosen": [_text(record.responses[0]) for record in records],
        "rejected": [_text(record.responses[1]) for record in records],
        **_extras(records),
        "margin": [record.margin for record in records],
        "grade": [record.grade for record in records],
        "score_chosen": [record.scores and record.scores[0] for record in records],
        "score_rejected": [record.scores and record.scores[1] for record in records],
        "finished": [record.finished and list(record.finished) for record in records],
        **_sampled(records),
    }


def _sampled(records: list[Candidates], count: int | None = None) -> dict[str, list[Any]]:
    """What a policy sampled, of the first `count` responses."""
    if all(record.sampled_ids is None for record in records):
        return {}
    ids = [record.sampled_ids and list(map(list, record.sampled_ids[:count])) for record in records]
    return {"sampled_ids": ids, "sampled_by": [record.sampled_by for record in records]}


def _list_columns(records: list[Candidates]) -> dict[str, list[Any]]:
    return {
        "responses": [list(map(_text, record.responses)) for record in records],
        **_extras(records),
        "scores": [record.scores and list(record.scores) for record in records],
        "finished": [record.finished and list(record.finished) for record in records],
        **_sampled(records),
    }


def _sft_columns(records: list[Candidates]) -> dict[str, list[Any]]:
    whole = [record.responses[0] for record in records]
    later = [[] if isinstance(response, str) else _plain(response[1:]) for response in whole]
    return {
        "response": list(map(_text, whole)),
        **_extras(records, 1),
        "later_turns": later if any(later) else [None] * len(later),
        "finished": [record.finished and list(record.finished[:1]) for record in records],
        **_sampled(records, 1),
    }


def _unpaired_columns(records: list[Candidates]) -> dict[str, list[Any]]:
    return {**_sft_columns(records), "label": [record.label for record in records]}


_COLUMNS = {
    "pair": _pair_columns,
    "unpaired": _unpaired_columns,
    "list": _list_columns,
    "sft": _sft_columns,
    "prompt": lambda records: {},
}

"""What a turn has beside its role and what it says: whether it is trained on, and what nobody reads, which is named."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..records import TEXTS_BESIDE, Turn
from .cells import decoded, is_chat_turn
from .columns import TEMPLATE_INPUTS, Columns
from .fields import ROLES, Drop, Row, chat_turns, is_text_beside, items
from .labels import is_good

TRAINED = ("weight", "loss_weight", "loss", "train", "training", "trainable")
"""What says of an assistant's turn whether it is trained on, as OpenAI, LLaMA-Factory, ms-swift and axolotl call it."""
_LABEL = "label"
_READ = frozenset(("role", "from", "content", "value", "text", "tool_calls", "function_call", *TEMPLATE_INPUTS))


def counted_turns(row: Row, name: str) -> list[Turn]:
    """The turns in a column, those of the assistant that are not trained on marked so.

    Raises:
        Drop: as `chat_turns`; a turn says something else than yes or no, or is labelled as a bad answer.
    """
    turns = chat_turns(row, name)
    values = items({name: decoded(row[name])}, name)
    keys = {key for value in values if isinstance(value, Mapping) for key in (*TRAINED, _LABEL) if key in value}
    if not keys or not all(map(is_chat_turn, values)):
        return turns
    if isinstance(row, Columns):
        row.read.update(f"{name}[].{key}" for key in keys)
    marked = [_marked(turn, value, name) for turn, value in zip(turns, values, strict=True)]
    for turn, following in zip(marked, marked[1:], strict=False):
        if turn.role == following.role == "assistant" and turn.counts != following.counts:
            raise Drop(f"field {name!r}: of two answers in a row one is trained on and the other is not")
    return marked


def _marked(turn: Turn, value: Mapping[str, Any], name: str) -> Turn:
    if turn.role != "assistant":
        return turn
    if value.get(_LABEL) is not None and not is_good(dict(value), _LABEL):
        raise Drop(f"field {name!r}: a turn is labelled as a bad answer")
    said = {key: value[key] for key in TRAINED if value.get(key) is not None}
    counts = {key: _yes_or_no(each) for key, each in said.items()}
    unclear = next((key for key in said if counts[key] is None), None)
    if unclear is not None:
        raise Drop(f"field {name!r}: a turn has the {unclear} {said[unclear]!r}, expected 0 or 1, or true or false")
    if len({*counts.values()}) > 1:
        raise Drop(f"field {name!r}: {' and '.join(said)} of a turn contradict each other")
    return turn if all(counts.values()) else turn.uncounted()


def _yes_or_no(value: Any) -> bool | None:
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(str(value).lower())


def unread_keys(row: Columns) -> Iterator[str]:
    """The keys of turns and of answers with scores, in columns that were read, which nobody reads: `messages[].name`.

    Formats whose objects have other keys than turns say which they read, as names of this form.
    """
    for name, value in dict.items(row):
        if type(value) is str:
            value = decoded(value) if value.startswith(("[", "{", "array(")) else None
        objects = [value] if isinstance(value, Mapping) else value
        if not isinstance(objects, list | tuple) or not objects or not isinstance(objects[0], Mapping):
            continue
        if name not in row.read:
            continue
        turns = is_chat_turn(objects[0])
        keys = set[str]().union(*(each for each in objects if isinstance(each, Mapping)))
        if turns and keys <= _READ:
            continue
        if turns or any(noted.startswith(f"{name}[].") for noted in row.read):
            unread = (key for key in sorted(keys - _READ if turns else keys) if f"{name}[].{key}" not in row.read)
            yield from (f"{name}[].{key}" for key in unread if any(_leaves(each, key, turns) for each in objects))


def _leaves(value: Any, key: str, is_turn: bool) -> bool:
    """Whether an object says something under a key that nobody reads; of turns, some read more than others."""
    if not isinstance(value, Mapping) or value.get(key) is None:
        return False
    role = ROLES.get(str(value.get("role") or value.get("from")).lower()) if is_turn else None
    return key not in TEXTS_BESIDE.get(role or "", ()) or not (value[key] == "" or is_text_beside(value, key))

"""Whether a single answer is a good one: what labels say, as numbers, as true or false, or in words."""

from collections.abc import Iterator
from typing import Any

from ..records import kind_of
from .columns import LABELS, peek
from .fields import Drop, Row
from .positions import FLAGS

FLAG_LABELS = (*FLAGS, "rejected", "correct", "is_correct", "thumbs_up")
"""Columns that label a single answer where they hold true or false, or 0 or 1; they may be other things elsewhere."""

_GOOD = {"true", "1", "1.0", "yes", "good", "positive", "desirable", "chosen", "safe", "accepted", "like", "好"}
_GOOD |= {"selected", "preferred", "harmless"}
_BAD = {"false", "0", "0.0", "no", "bad", "negative", "undesirable", "rejected", "unsafe", "dislike", "-1", "差"}
_BAD |= {"harmful"}


def labels_of(row: Row) -> Iterator[str]:
    """The columns that say whether a row's single answer is a good one."""
    yield from (name for name in LABELS if name in row)
    yield from (name for name in FLAG_LABELS if name in row and name not in LABELS and is_flag(peek(row, name)))


def label_of(row: Row) -> bool:
    """Whether a row's single answer is a good one, which all its labels have to say alike.

    Raises:
        Drop: there is none, one of them says neither, or they contradict each other.
    """
    said = {name: is_good(row, name) != (name == "rejected") for name in labels_of(row)}
    if not said:
        raise Drop(f"none of the fields {', '.join(LABELS)}")
    if len({*said.values()}) > 1:
        raise Drop(f"fields {' and '.join(map(repr, said))} contradict each other about whether the answer is good")
    return any(said.values())


def is_flag(value: Any) -> bool:
    """Whether this is true or false, as such, as 0 or 1, or as a word."""
    return isinstance(value, bool) or str(value).strip().lower() in ("true", "false", "0", "1")


def is_good(row: Row, name: str) -> bool:
    """Whether a label calls the row's answer a good one: true or false, 1 or 0, or a word for either."""
    value = row[name]
    good = _says_good(value)
    if good is None:
        shown = repr(value) if isinstance(value, str | int | float) else kind_of(value)
        raise Drop(f"field {name!r}: is {shown}, which calls the answer neither good nor bad; see `columns`")
    return good


def _says_good(value: object) -> bool | None:
    """What a label says, also as names of classes do: is_safe, not_chosen; None where it says neither."""
    if not isinstance(value, bool | int | float | str):
        return None
    plain = str(value).strip().lower()
    if plain in _GOOD | _BAD:
        return plain in _GOOD
    word = plain.replace("-", "_").replace(" ", "_").removeprefix("is_")
    denied = word.startswith(("not_", "non_"))
    word = word[4:] if denied else word
    return None if word not in _GOOD | _BAD or word.strip("01.") == "" else (word in _GOOD) != denied

"""Whether a single answer is a good one: what labels say, as numbers, as true or false, or in words."""

from ..records import kind_of
from .fields import Drop, Row

_GOOD = {"true", "1", "1.0", "yes", "good", "positive", "desirable", "chosen", "safe", "accepted", "like", "好"}
_GOOD |= {"selected", "preferred", "harmless"}
_BAD = {"false", "0", "0.0", "no", "bad", "negative", "undesirable", "rejected", "unsafe", "dislike", "-1", "差"}
_BAD |= {"harmful"}


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

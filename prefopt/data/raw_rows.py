"""Raw rows on their way to an adapter: what a table fills in goes, and what was saved apart comes together."""

from typing import Any

from .records import ANSWER_EXTRAS


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """The row less its nulls: a table has a column for every field of any row, and pandas NaN where it is missing."""
    if not any(map(is_null, row.values())):
        return row
    return {name: value for name, value in row.items() if not is_null(value)}


def with_extras(row: dict[str, Any]) -> dict[str, Any]:
    """A row that was saved as the load functions gave it, with what each answer has beside its text in its turn.

    They have the tools that answers call, and the thoughts before them, in columns beside the answers.
    """
    extras = [name for name in ANSWER_EXTRAS if name in row and _are_texts_or_nulls(row[name])]
    if not extras:
        return row
    rest = {name: value for name, value in row.items() if name not in extras}
    if not any(any(row[name]) for name in extras):
        return rest
    answers = [name for name in ("chosen", "rejected", "response") if name in row]
    if any(len(answers) != len(row[name]) for name in extras) or not all(
        isinstance(row[name], str) for name in answers
    ):
        return row
    turns = [{"role": "assistant", "content": row[name]} for name in answers]
    for name in extras:
        for turn, value in zip(turns, row[name], strict=True):
            turn |= {name: value} if value else {}
    return rest | {name: [turn] for name, turn in zip(answers, turns, strict=True)}


def _are_texts_or_nulls(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(each is None or isinstance(each, str) for each in value)


def is_null(value: Any) -> bool:
    """Whether a cell says nothing: null, or pandas' NaN."""
    return value is None or (type(value) is float and value != value)

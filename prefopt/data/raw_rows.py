"""Raw rows on their way to an adapter: what a table fills in goes, and what was saved apart comes together."""

from typing import Any


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """The row less its nulls: a table has a column for every field of any row, and pandas NaN where it is missing."""
    if not any(map(is_null, row.values())):
        return row
    return {name: value for name, value in row.items() if not is_null(value)}


def with_calls(row: dict[str, Any]) -> dict[str, Any]:
    """A row that was saved as the load functions gave it, with the tools that each answer calls in the answer's turn.

    They have them in a column beside the answers, which may be empty texts then.
    """
    calls = row.get("tool_calls")
    if not isinstance(calls, list | tuple) or not all(call is None or isinstance(call, str) for call in calls):
        return row
    rest = {name: value for name, value in row.items() if name != "tool_calls"}
    if not any(calls):
        return rest
    answers = [name for name in ("chosen", "rejected", "response") if name in row]
    if len(answers) != len(calls) or not all(isinstance(row[name], str) for name in answers):
        return row
    turns = [{"role": "assistant", "content": row[name]} for name in answers]
    both = zip(turns, calls, strict=True)
    made = [[turn | {"tool_calls": call}] if call else [turn] for turn, call in both]
    return rest | dict(zip(answers, made, strict=True))


def is_null(value: Any) -> bool:
    """Whether a cell says nothing: null, or pandas' NaN."""
    return value is None or (type(value) is float and value != value)

"""Columns that point at the better or the best of several answers: their names, and where their numbers count from."""

from collections.abc import Collection

POINTING = ("winner", "better", "best", "preferred", "chosen", "choice", "selected")
"""What such columns begin with."""
FROM_ZERO = ("_index", "_idx")
"""What those end with whose positions are counted from 0, as those of lists are."""
ENDS = (
    *("", *FROM_ZERO, "_id"),
    *(f"_{word}{end}" for word in ("response", "answer") for end in ("", *FROM_ZERO, "_id")),
)
POINTERS = tuple(word + end for word in POINTING for end in ENDS)
FLAGS = (*POINTING[1:], *(f"is_{word}" for word in POINTING[1:]), "accepted")
"""What an answer among several has that says whether it is the best one."""


def base_of(seen: Collection[int], last: int | None, own: int | None) -> int | None:
    """Where positions are counted from; None where they do not tell.

    Args:
        seen: the positions that occur.
        last: the one that only counting from 1 gives, if it occurs.
        own: where the names of the columns, or of the position's, say that they count from.
    """
    if 0 in seen:
        return None if last in seen else 0
    return 1 if last in seen else (0 if own == 0 else None)

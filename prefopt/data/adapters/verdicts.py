"""Two answers and what says which is the better one: its name, its position, a sign, a flag or scores.

Positions are counted from 0 in some files and from 1 in others. A whole file tells which (`_position`); one that does
not is refused, as half of its rows would be read the wrong way round.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ..records import Candidates, Turn
from .answers import Answer, pair
from .columns import file_of, peek
from .fields import Drop, Row, number
from .file import whole_number
from .positions import FROM_ZERO, POINTING, base_of
from .questions import Prompt, answer_in
from .rankings import RANKS, SCORES

Verdict = Callable[[Row, tuple[str, str], tuple[str, ...]], int]
"""Which of two columns has the better answer, 0 or 1, by other columns; it raises `Drop` for a tie."""


class Tie(Drop):
    """Neither of two answers is the better one; `candidates` serves where no order is asked for."""

    candidates: Candidates

    def __init__(self) -> None:
        super().__init__("tie: neither answer is the better one")


_TIES = {"tie", "tie (bothbad)", "both", "neither", "same", "equal", "tied", "draw", "both_bad"}


def by_ending(row: Row, names: tuple[str, str], columns: tuple[str, ...]) -> int:
    """The verdict names the better answer as its column ends, with a word before it or not: a or b, model_a, 1 or 2.

    Or it is the answer's position.
    """
    (column,) = columns
    value = _present(row, column)
    position = whole_number(value)
    if position is not None:
        return _position(row, names, column, position)
    said = str(value).strip()
    if said.lower() in _TIES:
        raise Tie
    word = said.strip("[]'\"").lower()
    better = [word in _calls(name, row) for name in names]
    if better[0] == better[1]:
        raise Drop(f"field {column!r}: is {value!r}, which names neither {names[0]} nor {names[1]}")
    return better.index(True)


_OWN_BASE: dict[tuple[str, ...], int] = {("0", "1"): 0, ("1", "2"): 1}
"""How two columns end -> where they count from."""


def _position(row: Row, names: tuple[str, str], column: str, position: int) -> int:
    """Which of two answers a number stands for, counted as the whole file does."""
    own = _OWN_BASE.get(tuple(map(_ending, names)))
    seen = file_of(row).whole_numbers(column) & {0, 1, 2}
    base = base_of(seen, 2, 0 if column.endswith(FROM_ZERO) else own)
    points = column.startswith(POINTING)
    if seen == {1} and own == 1 and not points:
        base = 1  # the place, or that the first is better: the same one
    if base is None:
        raise Drop(
            f"field {column!r}: has numbers that may be counted from 0 or from 1, which the file does not tell: write "
            f"{names[0]!r} or {names[1]!r} in their place"
        )
    if base == 0 and own != 0 and not points:
        raise Drop(
            f"field {column!r}: has 0 and 1, which may be the place of the better answer, or say whether the first is "
            f"better: write {names[0]!r} or {names[1]!r} in their place"
        )
    if position - base not in (0, 1):
        raise Drop(f"field {column!r}: is {position}, which names neither {names[0]} nor {names[1]}")
    return position - base


_ANSWER_WORDS = (
    "",
    "answer",
    "assistant",
    "candidate",
    "completion",
    "model",
    "option",
    "output",
    "response",
    "system",
)


def _calls(name: str, row: Row) -> set[str]:
    """All that a verdict may call an answer: its column, that column's ending, or the model that gave it."""
    ending = _ending(name)
    own = name.lower().removesuffix(ending).rstrip("_")
    calls = {f"{word}{gap}{ending}" for word in (*_ANSWER_WORDS, own) for gap in ("", "_", "-", " ")}
    model = row.get(f"model_{ending}") if f"model_{ending}" in row else None
    return calls | ({model.strip().lower()} if isinstance(model, str) and model.strip() else set())


def _ending(name: str) -> str:
    """What tells a column from its twin: "a" of response_a, "2" of response2."""
    return name.lower().rpartition("_")[2][-1:]


def by_sign(row: Row, names: tuple[str, str], columns: tuple[str, ...]) -> int:
    """The verdict is negative where the first answer is better, positive where the second is, and 0 for a tie."""
    value = number({columns[0]: _present(row, columns[0])}, columns[0])
    if value == 0:
        raise Tie
    return int(value > 0)


def first_if_true(row: Row, names: tuple[str, str], columns: tuple[str, ...]) -> int:
    """The verdict is 1 where the first answer is better, and 0 where the second is."""
    value = _present(row, columns[0])
    if value not in (0, 1, "0", "1"):
        raise Drop(f"field {columns[0]!r}: is {value!r}, expected 1 ({names[0]} is better) or 0 ({names[1]} is)")
    return 1 - int(value)


def by_flags(row: Row, names: tuple[str, str], columns: tuple[str, ...]) -> int:
    """One column for each answer is 1 where it is the better one; both are 0 for a tie."""
    flags = [bool(number({column: _present(row, column)}, column)) for column in columns[:2]]
    if flags[0] == flags[1]:
        raise Tie if not flags[0] else Drop(f"fields {columns[0]!r} and {columns[1]!r}: both answers won")
    return flags.index(True)


def by_score(row: Row, names: tuple[str, str], columns: tuple[str, ...]) -> int:
    """One column for each answer has its score, the higher the better."""
    first, second = (number({column: _present(row, column)}, column) for column in columns)
    if first == second:
        raise Tie
    return int(second > first)


def _present(row: Row, column: str) -> Any:
    if column not in row:
        raise Drop(f"field {column!r}: missing, so nothing says which answer is better")
    return row[column]


def judged(
    row: Row, names: tuple[str, str], verdict: Verdict, columns: tuple[str, ...], prompt: Prompt | None
) -> Candidates:
    """A pair from two answers in columns of their own and the verdict of which is better."""
    try:
        better = verdict(row, names, columns)
    except Tie as tie:
        tie.candidates = pair(prompt, *(_answer(row, name) for name in names))
        raise
    _check_scores(row, names, better, columns)
    chosen, rejected = (_answer(row, name) for name in (names[better], names[1 - better]))
    return pair(prompt, chosen, rejected)


def _answer(row: Row, name: str) -> Answer:
    if name not in row:
        raise Drop(f"field {name!r}: missing")
    answer = answer_in(row, name)
    if isinstance(answer, list) and isinstance(peek(row, "turn"), int):
        answer = answer[: _end_of_exchange(answer, row["turn"])]  # a conversation that was judged after this exchange
    return answer


def _end_of_exchange(turns: list[Turn], exchange: int) -> int:
    ends = [number + 1 for number, turn in enumerate(turns) if turn.role == "assistant"]
    return ends[exchange - 1] if 0 < exchange <= len(ends) else len(turns)


def _check_scores(row: Row, names: tuple[str, str], better: int, columns: tuple[str, ...]) -> None:
    """Drop a pair of which scores or ranks beside it say the opposite."""
    for twins, sign in _score_columns(tuple(row.keys()), names):
        if set(twins) & set(columns):
            continue
        found = [sign * number(row, twin) for twin in twins]
        if found[better] < found[1 - better]:
            raise Drop(f"fields {twins[0]!r} and {twins[1]!r} say the opposite of {columns[0]!r}")


@lru_cache(1024)
def _score_columns(columns: tuple[str, ...], names: tuple[str, str]) -> tuple[tuple[tuple[str, str], int], ...]:
    """The columns with a score, or a rank, for each of two answers, and which way the better one is."""
    ends = [name.rpartition("_")[2] for name in names]
    words = [(word, 1) for word in SCORES] + [(word, -1) for word in RANKS]
    twins = [((f"{word}_{ends[0]}", f"{word}_{ends[1]}"), sign) for word, sign in words]
    return tuple((pair, sign) for pair, sign in twins if pair[0] in columns and pair[1] in columns)

"""Several answers to one prompt: their order by scores, by ranks, or by what points at the best of them."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from ..records import Candidates, Turn
from .cells import decoded, is_chat_turn
from .columns import Columns, file_of, peek
from .fields import Drop, Row, items, merge_speakers, number, numbers, said, sampled, terminated
from .file import whole_number
from .labels import is_flag, is_good
from .positions import FLAGS, FROM_ZERO, POINTERS, base_of
from .questions import Prompt, answer_turn

TEXTS = ("response", "text", "completion", "answer", "content", "output", "generated_text", "value")
SCORES = ("score", "overall_score", "reward", "rating", "rank_points", "copeland", "points", "upvotes")
RANKS = ("rank", "ranking")
SCORE_LISTS = ("scores", "rewards", "ratings", "reward", "all_rm_scores")
RANK_LISTS = ("ranks", "rank", "ranking", "rankings")
UNORDERED = "several responses, and no score or rank says which is the best"
"""Why such a row is no demonstration."""


def several(row: Row, column: str, prompt: Prompt) -> Candidates:
    """K responses, best first by a named score or rank, or by what points at the best of them.

    Without any of these their order is kept, and means nothing.

    Raises:
        Drop: fewer than two responses, scores of another number, or scores, ranks and pointers that contradict.
    """
    entries = items({column: decoded(row[column])}, column)
    objects = bool(entries) and all(isinstance(entry, Mapping) and not is_chat_turn(entry) for entry in entries)
    responses = [_text_of(entry, column) for entry in entries]
    orders = _of_objects(entries, column) if objects else _beside(row)
    if objects and isinstance(row, Columns):
        row.read.update(f"{column}[].{key}" for entry in entries for key in (*orders, _text_key(entry)))
    if any(len(responses) != len(scores) for scores in orders.values()):
        raise Drop("responses and scores differ in number")
    if (pointer := pointed(row, column, responses, bool(orders))) is not None:
        orders[pointer[0]] = tuple(float(number == pointer[1]) for number in range(len(responses)))
    scores = _agreed(orders)
    finished, ids = terminated(row, len(responses)), sampled(row, len(responses))
    best_first = sorted(range(len(responses)), key=lambda k: -scores[k]) if scores else range(len(responses))
    kept = [k for k in best_first if responses[k].strip()]
    if len(kept) < 2:
        raise Drop("fewer than two responses")
    repairs = ("empty response removed from the list",) if len(kept) < len(responses) else ()
    return Candidates(
        tuple(Turn("user", turn.content.strip()) if turn.role == "text" else turn for turn in prompt.turns),
        tuple(prompt.answer(responses[k]) for k in kept),
        tuple(scores[k] for k in kept) if scores else None,
        finished=tuple(finished[k] for k in kept) if finished else None,
        sampled_ids=tuple(ids[0][k] for k in kept) if ids else None,
        sampled_by=ids[1] if ids else None,
        repairs=prompt.repairs + repairs,
    )


_POINTERS = frozenset(POINTERS)

Orders = dict[str, tuple[float, ...]]
"""What orders responses -> a number for each, of which the highest is the best."""


def _agreed(orders: Orders) -> tuple[float, ...] | None:
    """The first of several orders, none of which puts two responses the other way round."""
    named = list(orders.items())
    for (name, first), (other, second) in combinations(named, 2):
        pairs = zip(combinations(first, 2), combinations(second, 2), strict=True)
        if any((a - b) * (c - d) < 0 for (a, b), (c, d) in pairs):
            raise Drop(f"{name!r} and {other!r} contradict each other about which response is better")
    return named[0][1] if named else None


def _beside(row: Row) -> Orders:
    """Scores, or ranks, in a list beside the responses; of ranks, whose first is the best, their negatives."""
    orders: Orders = {}
    for names, sign in ((SCORE_LISTS, 1.0), (RANK_LISTS, -1.0)):
        name = next((name for name in names if row.get(name)), None)
        if name is not None and name not in orders:
            orders[name] = tuple(sign * each for each in numbers({name: decoded(row[name])}, name))
    return orders


def _of_objects(entries: Sequence[Mapping[str, Any]], column: str) -> Orders:
    """The scores of {response, score} objects, the negatives of ranks, and 1 for the one that is marked as the best."""
    orders: Orders = {}
    for names, sign in ((SCORES, 1.0), (RANKS, -1.0)):
        name = next((name for name in names if all(entry.get(name) is not None for entry in entries)), None)
        if name is not None:
            orders[name] = tuple(sign * number(dict(entry), name) + 0.0 for entry in entries)  # and not -0.0
    flag = next((name for name in FLAGS if any(is_flag(entry.get(name)) for entry in entries)), None)
    if flag is not None:
        flags = tuple(float(is_flag(entry.get(flag)) and is_good(dict(entry), flag)) for entry in entries)
        if not orders and sum(flags) != 1:
            raise Drop(f"field {column!r}: {flag!r} is true of {sum(flags):.0f} of its responses, expected one")
        orders[flag] = flags
    if orders:
        return orders
    named = next((name for name in (*SCORES, *RANKS) if any(entry.get(name) is not None for entry in entries)), None)
    if named is not None:
        raise Drop(f"field {column!r}: some of its responses have {named!r} and others have not")
    return orders


def pointed(row: Row, column: str, responses: Sequence[str], ordered: bool) -> tuple[str, int] | None:
    """The column that points at the best of the responses, and which one that is.

    Args:
        column: of the responses.
        ordered: whether something else orders them, so that a column that points at none means something else.

    Raises:
        Drop: it points at none.
    """
    if _POINTERS.isdisjoint(row.keys()):
        return None
    for name in POINTERS:
        value = decoded(peek(row, name))
        if value is None or name == column:
            continue
        found = _place(row, name, value, column, responses)
        if found is not None:
            return (name, found) if row[name] is not None else None
        if not ordered:
            raise Drop(
                f"field {name!r}: does not tell which response is the best: write its text, or its place in a column "
                "chosen_index, counted from 0"
            )
    return None


def _place(row: Row, name: str, value: Any, column: str, responses: Sequence[str]) -> int | None:
    """The response that a value points at: by its place, as the file counts, by a flag for each, or by its text."""
    if isinstance(value, list | tuple) and len(value) == len(responses) and all(map(is_flag, value)):
        flags = [str(each).strip().lower() in ("true", "1") for each in value]
        return flags.index(True) if sum(flags) == 1 else None
    position = whole_number(value)
    if position is None:
        said = [response.strip() for response in responses]
        return said.index(value.strip()) if isinstance(value, str) and value.strip() in said else None
    file = file_of(row)
    key = f"last of {name}"
    if key not in file.notes:
        rows = ((whole_number(peek(each, name)), decoded(peek(each, column))) for each in file.rows)
        file.notes[key] = any(isinstance(found, list) and place == len(found) for place, found in rows)
    seen = {0} & file.whole_numbers(name) | ({-1} if file.notes[key] else set())
    base = base_of(seen, -1, 0 if name.endswith(FROM_ZERO) else None)
    return None if base is None or not base <= position < base + len(responses) else position - base


def _text_key(entry: Mapping[str, Any]) -> str | None:
    """What an object with a response calls its text."""
    return next((name for name in TEXTS if entry.get(name) is not None), None)


def _text_of(entry: Any, column: str) -> str:
    """One of several responses: text, an assistant turn, or an object that holds one of these."""
    if isinstance(entry, str):
        return entry
    if isinstance(entry, Mapping) and not is_chat_turn(entry):
        name = _text_key(entry)
        if name is None:
            raise Drop(f"field {column!r}: its objects have the fields {', '.join(entry)}, none of {', '.join(TEXTS)}")
        entry = entry[name]
    if entry == "":
        return ""
    answer = answer_turn(entry, column)
    if isinstance(answer, str):
        return answer
    turns, _ = merge_speakers(answer)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise Drop(f"field {column!r}: expected each response to be one assistant turn, not {len(turns)} turns")
    return said(turns[0], column)

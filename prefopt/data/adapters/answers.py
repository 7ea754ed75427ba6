"""What the answers of a row are, in any of the forms that they are kept in: a pair, two and a verdict, several ranked.

Here stands how a prompt and its answers become `Candidates`, whichever columns they come from: `pair`. What the columns
of a format are called stands in `formats.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from ..records import Candidates, Turn, kind_of
from .columns import decoded, peek
from .fields import Drop, Row, is_chat_turn, items, merge_speakers, number, numbers, said, sampled, terminated
from .questions import Prompt, answer_turn, prompt_of
from .transcripts import common_turns, pair_of, untagged

Answer = str | list[Turn]

REPEATED = 16
"""A bare prompt of so many characters, with which both answers begin, was written before them, not said again."""

# ---- a pair ----------------------------------------------------------------------------------------------------------


def pair(prompt: Prompt | None, chosen: Answer, rejected: Answer) -> Candidates:
    """A pair from its prompt and both answers, each a text or the turns that end on it.

    Turns may begin with the prompt, which then need not be given; a prompt in text that they do not repeat comes first.
    Two texts without any prompt have their common beginning for one.

    Raises:
        Drop: the sides do not share a prompt, or there is none.
    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _of_texts(prompt, chosen, rejected)
    if prompt is not None:
        prompt = replace(prompt, turns=tuple(map(_as_user, prompt.turns)))
        texts = [_alone(side) for side in (chosen, rejected)]
        if texts[0] is not None and texts[1] is not None:
            return _of_texts(prompt, texts[0], texts[1])
    sides = [[Turn("assistant", side)] if isinstance(side, str) else side for side in (chosen, rejected)]
    if prompt is None:
        before = next((side[:-1] for side in sides if len(side) > 1), [])
        return pair_of([before + side if len(side) == 1 else side for side in sides])
    question = list(prompt.turns)
    if not all(common_turns(question, side) == len(question) for side in sides) and not _repeats(question, sides):
        if question[-1].role == "user" and any(side[0].role in ("user", "system") for side in sides):
            raise Drop("the prompt and the beginning of the answers' conversations differ")
        sides = [question + side for side in sides]
    return pair_of(sides, prompt.repairs)


def _as_user(turn: Turn) -> Turn:
    """A bare text beside turns is the user's."""
    return Turn("user", turn.content.strip()) if turn.role == "text" else turn


def _alone(side: Answer) -> str | None:
    """The text of an answer that is nothing but what an assistant turn says."""
    if isinstance(side, str):
        return side
    return side[0].content if len(side) == 1 and side[0].role == "assistant" and not side[0].tool_calls else None


def _repeats(question: Sequence[Turn], sides: Sequence[Sequence[Turn]]) -> bool:
    """Whether the one text of a question stands in the conversations, as the user's."""
    if len(question) != 1:
        return False
    asked = question[0].content.strip()
    return all(any(t.role == "user" and t.content.strip() == asked for t in side) for side in sides)


def _of_texts(prompt: Prompt | None, chosen: str, rejected: str) -> Candidates:
    answers = chosen, rejected
    if prompt is None:
        cut = shared_start(*answers)
        if not chosen[:cut].strip():
            raise Drop("no prompt: no column is one, and the answers begin differently")
        return Candidates((Turn("text", chosen[:cut]),), (chosen[cut:], rejected[cut:]))
    if prompt.verbatim:
        start = prompt.turns[0].content if prompt.turns[0].role == "text" else ""
        if len(start) >= REPEATED and all(answer.startswith(start) for answer in answers):
            answers = chosen[len(start) :], rejected[len(start) :]
            return Candidates(prompt.turns, answers, repairs=("prompt removed from the beginning of both answers",))
        return Candidates(prompt.turns, answers, repairs=prompt.repairs)
    cleaned = [untagged(prompt.answer(answer), prompt.turns) for answer in answers]
    repairs = {*prompt.repairs, *(repair for _, more in cleaned for repair in more)}
    return Candidates(prompt.turns, tuple(answer for answer, _ in cleaned), repairs=tuple(sorted(repairs)))


def shared_start(chosen: str, rejected: str) -> int:
    """Where two texts part, taken back to the start of the word and of the space before it."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected)))  # noqa: B905
    cut = same
    if any(_in_word(side, same) for side in (chosen, rejected)):
        while cut and _is_letter(chosen[cut - 1]):
            cut -= 1
    return cut - 1 if cut and chosen[cut - 1] == " " else cut


def _in_word(side: str, position: int) -> bool:
    """Whether a cut here would leave nothing, or half a word of a script that writes spaces."""
    return position == len(side) or (position > 0 and _is_letter(side[position - 1]) and _is_letter(side[position]))


def _is_letter(character: str) -> bool:
    return character.isascii() and character.isalnum()


# ---- two answers and a verdict ---------------------------------------------------------------------------------------

Verdict = Callable[[Row, tuple[str, str], tuple[str, ...]], int]
"""Which of two columns has the better answer, 0 or 1, by other columns; it raises `Drop` for a tie."""


class Tie(Drop):
    """Neither of two answers is the better one; `candidates` serves where no order is asked for."""

    candidates: Candidates

    def __init__(self) -> None:
        super().__init__("tie: neither answer is the better one")


_TIES = {"tie", "tie (bothbad)", "both", "neither", "same", "equal", "tied", "draw", "both_bad"}


def by_ending(row: Row, names: tuple[str, str], columns: tuple[str, ...]) -> int:
    """The verdict names the better answer as its column ends, with a word before it or not: 0 or 1, a or b, model_a."""
    (column,) = columns
    value = _present(row, column)
    plain = str(int(value)) if isinstance(value, bool | float) and float(value).is_integer() else str(value)
    if plain.strip().lower() in _TIES:
        raise Tie
    said = plain.strip().strip("[]'\"").lower()
    better = [said in _calls(name, row) for name in names]
    if better[0] == better[1]:
        raise Drop(f"field {column!r}: is {value!r}, which names neither {names[0]} nor {names[1]}")
    return better.index(True)


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
    chosen, rejected = (_answer(row, name) for name in (names[better], names[1 - better]))
    return pair(prompt, chosen, rejected)


def _answer(row: Row, name: str) -> Answer:
    if name not in row:
        raise Drop(f"field {name!r}: missing")
    answer = answer_turn(row[name], name)
    if isinstance(answer, list) and isinstance(peek(row, "turn"), int):
        answer = answer[: _end_of_exchange(answer, row["turn"])]  # a conversation that was judged after this exchange
    return answer


def _end_of_exchange(turns: list[Turn], exchange: int) -> int:
    ends = [number + 1 for number, turn in enumerate(turns) if turn.role == "assistant"]
    return ends[exchange - 1] if 0 < exchange <= len(ends) else len(turns)


# ---- several answers -------------------------------------------------------------------------------------------------

TEXTS = ("response", "text", "completion", "answer", "content", "output", "generated_text", "value")
SCORES = ("score", "overall_score", "reward", "rating", "rank_points", "copeland", "points", "upvotes")
RANKS = ("rank", "ranking")
SCORE_LISTS = ("scores", "rewards", "ratings", "reward", "all_rm_scores")
RANK_LISTS = ("ranks", "rank", "ranking", "rankings")
UNORDERED = "several responses, and no score or rank says which is the best"
"""Why such a row is no demonstration."""


def several(row: Row, column: str, prompt: Prompt) -> Candidates:
    """K responses, best first by a named score or rank; without either their order is kept, and means nothing.

    Raises:
        Drop: fewer than two responses, or scores of another number.
    """
    entries = items({column: decoded(row[column])}, column)
    objects = bool(entries) and all(isinstance(entry, Mapping) and not is_chat_turn(entry) for entry in entries)
    scores = _of_objects(entries, column) if objects else _beside(row)
    responses = [_text_of(entry, column) for entry in entries]
    finished, ids = terminated(row, len(responses)), sampled(row, len(responses))
    if len(responses) != len(scores or responses):
        raise Drop("responses and scores differ in number")
    best_first = sorted(range(len(responses)), key=lambda k: -scores[k]) if scores else range(len(responses))
    kept = [k for k in best_first if responses[k].strip()]
    if len(kept) < 2:
        raise Drop("fewer than two responses")
    repairs = ("empty response removed from the list",) if len(kept) < len(responses) else ()
    return Candidates(
        tuple(map(_as_user, prompt.turns)),
        tuple(prompt.answer(responses[k]) for k in kept),
        tuple(scores[k] for k in kept) if scores else None,
        finished=tuple(finished[k] for k in kept) if finished else None,
        sampled_ids=tuple(ids[0][k] for k in kept) if ids else None,
        sampled_by=ids[1] if ids else None,
        repairs=prompt.repairs + repairs,
    )


def _beside(row: Row) -> tuple[float, ...] | None:
    """Scores in a list beside the responses; of ranks, whose first is the best, their negatives."""
    for name in SCORE_LISTS:
        if row.get(name):
            return numbers({name: decoded(row[name])}, name)
    for name in RANK_LISTS:
        if row.get(name):
            return tuple(-rank for rank in numbers({name: decoded(row[name])}, name))
    return None


def _of_objects(entries: Sequence[Mapping[str, Any]], column: str) -> tuple[float, ...] | None:
    """The scores of {response, score} objects; of ranks their negatives."""
    for names, sign in ((SCORES, 1.0), (RANKS, -1.0)):
        name = next((name for name in names if all(entry.get(name) is not None for entry in entries)), None)
        if name is not None:
            return tuple(sign * number(dict(entry), name) + 0.0 for entry in entries)  # and not -0.0
    named = next((name for name in (*SCORES, *RANKS) if any(entry.get(name) is not None for entry in entries)), None)
    if named is not None:
        raise Drop(f"field {column!r}: some of its responses have {named!r} and others have not")
    return None


def _text_of(entry: Any, column: str) -> str:
    """One of several responses: text, an assistant turn, or an object that holds one of these."""
    if isinstance(entry, str):
        return entry
    if isinstance(entry, Mapping) and not is_chat_turn(entry):
        name = next((name for name in TEXTS if entry.get(name) is not None), None)
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


# ---- whether a single answer is good ---------------------------------------------------------------------------------

_GOOD = {"true", "1", "1.0", "yes", "good", "positive", "desirable", "chosen", "safe", "accepted", "like", "好"}
_BAD = {"false", "0", "0.0", "no", "bad", "negative", "undesirable", "rejected", "unsafe", "dislike", "-1", "差"}


def is_good(row: Row, name: str) -> bool:
    """Whether a label calls the row's answer a good one: true or false, 1 or 0, or a word for either."""
    value = row[name]
    plain = str(value).strip().lower()
    if not isinstance(value, bool | int | float | str) or plain not in _GOOD | _BAD:
        shown = repr(value) if isinstance(value, str | int | float) else kind_of(value)
        raise Drop(f"field {name!r}: is {shown}, which calls the answer neither good nor bad; see `columns`")
    return plain in _GOOD


def prompt_or_drop(row: Row) -> Prompt:
    """The prompt of a row that has to have one."""
    prompt = prompt_of(row)
    if prompt is None:
        raise Drop("no prompt")
    return prompt

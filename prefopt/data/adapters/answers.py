"""How a prompt and two answers become a pair, whichever columns they come from.

Two answers and a verdict are read in `verdicts.py`, several in `rankings.py`. What the columns of a format are called
stands in `formats.py`.
"""

from collections.abc import Sequence
from dataclasses import replace

from ..records import Candidates, Turn
from .columns import file_of, peek
from .fields import Drop, Row
from .implicit import WITHIN, begin_alike, may_be_asked, may_divide, shared_start
from .questions import Prompt, of_text
from .transcripts import common_turns, pair_of, untagged

Answer = str | list[Turn]

REPEATED = 16
"""A bare prompt of so many characters, with which both answers begin, was written before them, not said again."""


def pair(prompt: Prompt | None, chosen: Answer, rejected: Answer) -> Candidates:
    """A pair from its prompt and both answers, each a text or the turns that end on it.

    Turns may begin with the prompt, which then need not be given; a prompt in text that they do not repeat comes first.
    Two texts need a prompt, see `implicit_pair`.

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
    return side[0].content if len(side) == 1 and side[0].role == "assistant" and side[0].is_text else None


def _repeats(question: Sequence[Turn], sides: Sequence[Sequence[Turn]]) -> bool:
    """Whether the one text of a question stands in the conversations, as the user's."""
    if len(question) != 1:
        return False
    asked = question[0].content.strip()
    return all(any(t.role == "user" and t.content.strip() == asked for t in side) for side in sides)


def _of_texts(prompt: Prompt | None, chosen: str, rejected: str) -> Candidates:
    answers = chosen, rejected
    if prompt is None:
        raise Drop("no prompt")
    if prompt.verbatim:
        start = prompt.turns[0].content if prompt.turns[0].role == "text" else ""
        if len(start) >= REPEATED and all(answer.startswith(start) for answer in answers):
            answers = chosen[len(start) :], rejected[len(start) :]
            return Candidates(prompt.turns, answers, repairs=("prompt removed from the beginning of both answers",))
        return Candidates(prompt.turns, answers, repairs=prompt.repairs)
    cleaned = [untagged(prompt.answer(answer), prompt.turns) for answer in answers]
    repairs = {*prompt.repairs, *(repair for _, more in cleaned for repair in more)}
    return Candidates(prompt.turns, tuple(answer for answer, _ in cleaned), repairs=tuple(sorted(repairs)))


SIDES = ("chosen", "rejected")


def implicit_pair(row: Row, chosen: str, rejected: str) -> Candidates:
    """A pair of two texts in a file that keeps no prompts: what both begin with is the prompt, see `implicit.py`.

    Raises:
        Drop: some column may hold it; the texts begin differently, or those of other rows do.
    """
    file = file_of(row)
    if (name := may_be_asked(row, SIDES)) is not None:
        if name in row:
            raise Drop(f"no prompt; column {name!r} may hold it: say so by `columns`, such as prompt={name}")
        raise Drop(f"no prompt: column {name!r} is empty here, and has it in other rows")
    cut = shared_start(chosen, rejected)
    pairs = [(peek(other, "chosen"), peek(other, "rejected")) for other in file.rows]
    if not begin_alike(file, [(a, b) for a, b in pairs if isinstance(a, str) and isinstance(b, str)]):
        raise Drop("no prompt: no column is one, and the answers of other rows begin differently")
    prompt = of_text(chosen[:cut], verbatim=True)
    if may_divide((chosen, rejected), cut):
        prompt = replace(prompt, repairs=(*prompt.repairs, WITHIN))
    return _of_texts(prompt, chosen[cut:], rejected[cut:])

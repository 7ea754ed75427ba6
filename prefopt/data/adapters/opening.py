"""What stands before a prompt in any format: system turn, earlier turns, and what is for the chat template."""

from collections.abc import Collection
from dataclasses import replace

from ..records import Candidates, Turn, kind_of
from .cells import decoded, holds_turns
from .columns import HISTORY, SYSTEM, TEMPLATE_INPUTS, Columns
from .fields import Drop, chat_turns, items, template_input

_OPENING = frozenset((*SYSTEM, *HISTORY, *TEMPLATE_INPUTS))


def opened(row: Columns, candidates: Candidates) -> Candidates:
    """The record with the system turn, the history and the tools that stand in columns of their own, unless read.

    Raises:
        Drop: such a column that cannot stand before the prompt; the message names it.
    """
    if _OPENING.isdisjoint(row.keys()):
        return candidates
    unread = [name for name in row.unread() if name in _OPENING]
    system, history = _system(row, unread), _history(row, unread)
    inputs = {name: found for name in TEMPLATE_INPUTS if name in unread and (found := template_input(row, name))}
    if not (system or history or inputs):
        return candidates
    prompt = candidates.prompt
    if prompt and prompt[0].role == "system" and system:
        if prompt[0].content.strip() != system[0].content.strip():
            raise Drop("two different system turns, one in a column and one in the conversation")
        system = []
    if prompt and prompt[0].role == "text":
        if not prompt[0].content.strip():
            raise Drop(f"field {unread[0]!r}: cannot stand before a text without a prompt")
        prompt = (Turn("user", prompt[0].content.strip()),)
    kept = _less_repeated(history, prompt)
    repeated = ("history that the prompt repeats left out",) if len(kept) < len(history) else ()
    prompt = _with_inputs((*system, *kept), prompt, inputs)
    return replace(candidates, prompt=prompt, repairs=(*candidates.repairs, *repeated))


def _less_repeated(history: list[Turn], prompt: tuple[Turn, ...]) -> list[Turn]:
    """Earlier turns without those at their end with which the prompt begins; all of them, mostly."""
    said = [(turn.role, turn.content.strip()) for turn in prompt]
    spoken = [turn for turn in history if turn.role != "system"]
    for count in range(min(len(spoken), len(said)), 0, -1):
        start = 1 if said[0][0] == "system" else 0
        if [(turn.role, turn.content.strip()) for turn in spoken[-count:]] == said[start : start + count]:
            return [turn for turn in history if all(turn is not each for each in spoken[-count:])]
    return history


def with_one_system(candidates: Candidates) -> Candidates:
    """The record with one system turn at the head of its prompt, which says all that several at its head say.

    Templates take one, at the head. What is said twice is said once.
    """
    prompt = candidates.prompt
    if len(prompt) < 3 or prompt[0].role != "system":
        return candidates
    places = [number for number, turn in enumerate(prompt) if turn.role == "system"]
    heads = next((number for number, place in enumerate(places) if number != place), len(places))
    texts = list(dict.fromkeys(turn.content.strip() for turn in prompt[:heads]))
    first = prompt[0] if len(texts) == 1 else replace(prompt[0], content="\n\n".join(filter(None, texts)))
    later = [turn for turn in prompt[heads:] if turn.role != "system" or turn.content.strip() not in texts]
    if len(later) + 1 == len(prompt):
        return candidates
    what = "system turns merged" if len(texts) > 1 else "a system turn that is said twice left out"
    return replace(candidates, prompt=(first, *later), repairs=(*candidates.repairs, what))


def _with_inputs(before: tuple[Turn, ...], prompt: tuple[Turn, ...], inputs: dict[str, str]) -> tuple[Turn, ...]:
    """A whole prompt, of which the first turn has what is for the template: from columns, or from its own turns."""
    own = {name: value for name, value in (prompt[0].more if prompt else ()) if name in TEMPLATE_INPUTS}
    differ = next((name for name in own if inputs.get(name, own[name]) != own[name]), None)
    if differ is not None:
        raise Drop(f"two different values of {differ!r}, one in a column and one in the conversation")
    turns = (*before, *prompt)
    if not turns or not (own or inputs):
        return turns
    first, *others = (*before, *(_less(turn, own) for turn in prompt[:1]), *prompt[1:])
    return Turn.of(first.role, first.content, **dict(first.more) | own | inputs), *others


def _less(turn: Turn, names: Collection[str]) -> Turn:
    return replace(turn, more=tuple((name, value) for name, value in turn.more if name not in names))


def _system(row: Columns, unread: list[str]) -> list[Turn]:
    for name in unread:
        if name in SYSTEM and (value := row[name]):
            if not isinstance(value, str):
                raise Drop(f"field {name!r}: is {kind_of(value)}, expected the text of a system turn")
            return [Turn("system", value)] if value.strip() else []
    return []


def _history(row: Columns, unread: list[str]) -> list[Turn]:
    turns: list[Turn] = []
    for name in unread:
        if name in HISTORY and (value := row[name]) not in ("[]", "[[]]"):
            turns += earlier_turns(row, name) if value else []
    return turns


def earlier_turns(row: Columns, name: str) -> list[Turn]:
    """A column with earlier turns: [question, answer] pairs, chat turns, exchanges, or JSON text of one of these."""
    value = decoded(row[name])
    if holds_turns(value):
        return chat_turns({name: value}, name)
    if isinstance(value, str):
        raise Drop(
            f"field {name!r}: is text beside the prompt, expected turns; map it by `columns` if it is the prompt"
        )
    turns: list[Turn] = []
    for exchange in items({name: value}, name):
        if not (
            isinstance(exchange, list | tuple) and len(exchange) == 2 and all(isinstance(p, str) for p in exchange)
        ):
            raise Drop(f"field {name!r}: expected [question, answer] pairs")
        turns += [Turn("user", exchange[0]), Turn("assistant", exchange[1])]
    return turns

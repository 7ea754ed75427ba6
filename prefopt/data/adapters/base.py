"""What an adapter is, the registry of them, and what holds for a record of any format; knows no particular format."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..records import Candidates, DataError, Turn, texts
from .fields import Drop, Row, flags, grade, number

KINDS = ("pair", "list", "sft", "prompt")  # from what says most about a row to what says least
EXTRAS = ("margin", "grade", "score_chosen", "score_rejected")


@dataclass(frozen=True)
class Adapter:
    """One published format: how to recognise a row of it and what the row means.

    `kind` is "pair", "list" (K responses), "sft" (one good response) or "prompt". `fields` describes the row to people.

    `says_finished` is whether a field `finished` beside the answers is the column of that name. It is where the
    answers stand in fields of our own names; in other formats, which are not ours to define, it may mean anything.
    """

    name: str
    kind: str
    fields: str
    recognises: Callable[[Row], bool]
    read: Callable[[Row], Candidates]
    says_finished: bool = False

    def __call__(self, row: Row) -> Candidates:
        """The checked meaning of a row, or Drop with the reason why it has none."""
        candidates = check(self.read(row), self.kind)
        extras = _extras(row) if self.kind == "pair" and any(name in row for name in EXTRAS) else {}
        if self.says_finished and "finished" in row:
            extras["finished"] = flags(row, "finished", len(candidates.responses))
        return replace(candidates, **extras) if extras else candidates


REGISTRY: dict[str, Adapter] = {}


def register(
    name: str, *, kind: str, fields: str, recognises: Callable[[Row], bool], says_finished: bool = False
) -> Callable[[Callable[[Row], Candidates]], Callable[[Row], Candidates]]:
    """Enter a reading function under its name. Within a kind they are tried in order, so the particular comes first."""

    def enter(read: Callable[[Row], Candidates]) -> Callable[[Row], Candidates]:
        REGISTRY[name] = Adapter(name, kind, fields, recognises, read, says_finished)
        return read

    return enter


def catalogue(kinds: frozenset[str] = frozenset(KINDS)) -> str:
    """The known adapters of these kinds, one a line, for error messages."""
    return "\n".join(f"  {a.name:<22} {a.fields}" for a in REGISTRY.values() if a.kind in kinds)


def by_name(name: str) -> Adapter:
    if name not in REGISTRY:
        raise DataError(f"unknown adapter {name!r}; known are auto and\n{catalogue()}")
    return REGISTRY[name]


def recognise(rows: list[Row], kinds: frozenset[str]) -> Adapter | None:
    """The first adapter of these kinds that knows at least half of the rows."""
    known = sorted((a for a in REGISTRY.values() if a.kind in kinds), key=lambda a: KINDS.index(a.kind))
    return next((a for a in known if 2 * sum(map(a.recognises, rows)) >= len(rows)), None)


def check(candidates: Candidates, kind: str) -> Candidates:
    """What must hold for a record of any format."""
    prompt, responses = candidates.prompt, candidates.responses
    if not prompt:
        raise Drop("no prompt")
    if len(prompt) > 1 and any(turn.role == "text" for turn in prompt):
        raise Drop("bare text beside other turns")
    if prompt[-1].role not in ("user", "tool", "text"):
        raise Drop(f"prompt ends on {_a_turn(prompt[-1])}, expected a user turn")
    opening = next((turn for turn in prompt if turn.role != "system"), None)
    if opening is not None and opening.role == "assistant":
        raise Drop("prompt starts on an assistant turn")
    for place, response in enumerate(responses):
        if isinstance(response, str) and not response.strip():
            raise Drop(f"empty {('chosen', 'rejected')[place] if kind == 'pair' else 'response'}")
    if kind == "pair" and _same(*responses):
        raise Drop("identical answers")
    if not all(text.isascii() or _is_unicode(text) for text in texts(candidates)):
        raise Drop("text holds half a surrogate pair, which is not valid Unicode")
    return candidates


def _a_turn(turn: Turn) -> str:
    return f"a{'n' if turn.role == 'assistant' else ''} {turn.role} turn"


def _same(chosen: object, rejected: object) -> bool:
    if isinstance(chosen, str) and isinstance(rejected, str):
        return chosen.strip() == rejected.strip()
    return chosen == rejected


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _extras(row: Row) -> dict[str, Any]:
    """The optional columns of a pair."""
    scores = [number(row, name) for name in ("score_chosen", "score_rejected") if name in row]
    found: dict[str, Any] = {"scores": tuple(scores) if len(scores) == 2 else None}
    if "margin" in row:
        found["margin"] = number(row, "margin")
    if "grade" in row:
        found["grade"] = grade(row)
    return found

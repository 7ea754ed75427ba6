"""Where a dataset format is added: what an adapter is, the registry of adapters, and what every record must hold.

A format is one `@register(...)` above a function that says what a row means. Ours stand in `pairs.py` (preferences),
`transcripts.py` (texts with speaker tags) and `sft.py` (demonstrations and prompts). Yours can stand anywhere:

    from prefopt.data import Candidates, Drop, Turn, register

    @register(
        "my-forum",
        kind="pair",
        fields="title, better, worse: texts",
        recognises=lambda row: {"title", "better", "worse"} <= row.keys(),
    )
    def my_rows(row):
        if not row["title"]:
            raise Drop("no title")
        return Candidates((Turn("user", row["title"]),), (row["better"], row["worse"]))

Once its module is imported, its rows are recognised like any others, before the formats that come with prefopt. On the
command line `--adapter my_module:my_rows` imports the module, and so does `adapter="my_module:my_rows"` of the load
functions. A function without `register` serves there too, see `outside.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from textwrap import fill
from typing import Any

from ...utils.names import did_you_mean
from ..records import Candidates, DataError, Response, Turn, kind_of, plain_turn, texts
from .columns import Columns, unread_and_telling
from .fields import Drop, Row, grade, number, sampled, terminated
from .opening import opened, with_one_system

KINDS = ("pair", "list", "unpaired", "sft", "prompt")
"""What a row of a format holds, from what says most about it to what says least."""

PAIR_SCORES = tuple(
    names
    for word in ("score", "rating", "reward", "upvotes")
    for gap in "_-"
    for names in ((f"{word}{gap}chosen", f"{word}{gap}rejected"), (f"chosen{gap}{word}", f"rejected{gap}{word}"))
)
"""What the scores of both sides of a pair are called; the first two that a row has count."""
EXTRAS = frozenset(("margin", "grade", *(name for names in PAIR_SCORES for name in names)))
"""Columns that a pair may have in any format."""

Read = Callable[[Row], Candidates]


def never(row: Row) -> bool:
    """Recognises no row: the format is read only where its adapter is asked for by name."""
    return False


@dataclass(frozen=True)
class Adapter:
    """One format: how a row of it is recognised, and what the row means.

    Args:
        name: what people call the format.
        kind: "pair", "list" (K responses), "unpaired" (one response and its label), "sft" (one good one) or "prompt".
        fields: describes a row to people, in lists of formats.
        recognises: whether a row is of this format.
        read: what a row means; it raises `Drop` for a row that cannot be used.
        finish_columns: the columns `finished` and `finish_reason` beside the answers say which responses were
            truncated. In formats whose names are not ours to define these columns may mean anything.
        source: where the format is documented or kept.
        unread: columns that published rows of this format have and that are not read, for people.
        needs_file: whether a row can be read only when all rows of its file are known.
    """

    name: str
    kind: str
    fields: str
    recognises: Callable[[Row], bool]
    read: Read
    finish_columns: bool = False
    source: str = ""
    unread: str = ""
    needs_file: Callable[[Row], bool] = never

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"adapter {self.name!r} is of the kind {self.kind!r}; known are {', '.join(KINDS)}")

    @cached_property
    def comes_with_prefopt(self) -> bool:
        """Whether it is one of ours, rather than a user's."""
        return str(getattr(self.read, "__module__", "")).startswith(f"{__package__}.")

    @cached_property
    def left_out(self) -> frozenset[str]:
        """The names of columns that are known not to be read."""
        return frozenset(self.unread.split(", "))

    def __call__(self, row: Row) -> Candidates:
        """The checked meaning of a row.

        Raises:
            Drop: the row has no meaning; the message says why.
            DataError: the adapter is wrong, or the row contradicts itself.
        """
        row = row if isinstance(row, Columns) else Columns(row)
        candidates = called(self.name, self.read, row)
        if self.comes_with_prefopt:
            candidates = with_one_system(opened(row, candidates))
        count = len(candidates.responses)
        if not holds(self.kind, count):
            raise DataError(
                f"adapter {self.name!r} is of the kind {self.kind!r} and returned {count} responses: register it with "
                "the kind that fits, or raise Drop for this row"
            )
        candidates = check(candidates, self.kind)
        columns = {} if self.kind != "pair" or EXTRAS.isdisjoint(row.keys()) else _extras(row, candidates)
        if self.comes_with_prefopt and (name := unread_and_telling(row, candidates)):
            raise Drop(f"column {name!r} tells what the row means, and is not read: name those to read by `columns`")
        if self.finish_columns and (finished := terminated(row, count)) is not None:
            columns["finished"] = finished
        if self.finish_columns and candidates.sampled_ids is None and (ids := sampled(row, count)) is not None:
            columns["sampled_ids"], columns["sampled_by"] = ids
        return replace(candidates, **columns) if columns else candidates

    def knows(self, row: Row) -> bool:
        """Whether it recognises a row.

        Raises:
            DataError: the adapter is wrong.
        """
        try:
            return bool(self.recognises(row))
        except Exception as error:  # a user's own function may raise anything
            raise DataError(
                f"adapter {self.name!r}: `recognises` raised {type(error).__name__}: {error}, on a row with the fields "
                f"{', '.join(row)}; it is asked about rows of any format"
            ) from error


REGISTRY: dict[str, Adapter] = {}
"""Every known format by its name, in the order in which they are tried within a kind."""


def register(
    name: str,
    *,
    kind: str,
    fields: str,
    recognises: Callable[[Row], bool] = never,
    finish_columns: bool = False,
    source: str = "",
    unread: str = "",
    needs_file: Callable[[Row], bool] = never,
) -> Callable[[Read], Read]:
    """Make a function the adapter of a format, for the rest of the program; the function stays what it is.

    Within a kind formats are tried in the order in which they are registered, so the particular comes first; a user's
    formats are tried before ours. The arguments are those of `Adapter`.

    Raises:
        DataError: no such kind, or the name of a format that comes with prefopt.
    """

    def enter(read: Read) -> Read:
        adapter = Adapter(name, kind, fields, recognises, read, finish_columns, source, unread, needs_file)
        if name in REGISTRY and REGISTRY[name].comes_with_prefopt > adapter.comes_with_prefopt:
            raise DataError(f"adapter {name!r} comes with prefopt: register yours under another name")
        REGISTRY[name] = adapter
        return read

    return enter


def catalogue(kinds: frozenset[str] = frozenset(KINDS)) -> str:
    """The known adapters of these kinds, for error messages: each begins a line, and none is longer than 80 columns."""
    return "\n".join(
        fill(f"{adapter.name:<22} {adapter.fields}", 80, initial_indent="  ", subsequent_indent=" " * 25)
        for adapter in REGISTRY.values()
        if adapter.kind in kinds
    )


def by_name(name: str) -> Adapter:
    """The registered adapter of this name.

    Raises:
        DataError: there is none; the message lists those that there are.
    """
    if name not in REGISTRY:
        meant = f"{did_you_mean(name, REGISTRY)} " if did_you_mean(name, REGISTRY) else ""
        raise DataError(f"unknown adapter {name!r}: {meant}known are auto, module:name of your own, and\n{catalogue()}")
    return REGISTRY[name]


def recognise(rows: list[Row], kinds: frozenset[str]) -> Adapter | None:
    """The first adapter of these kinds that knows at least half of the rows; a user's own come first."""
    adapters = sorted(
        (adapter for adapter in REGISTRY.values() if adapter.kind in kinds),
        key=lambda adapter: (adapter.comes_with_prefopt, KINDS.index(adapter.kind)),
    )
    return next((adapter for adapter in adapters if 2 * sum(map(adapter.knows, rows)) >= len(rows)), None)


def called(name: str, read: Read, row: Row) -> Candidates:
    """What a reading function says of a row, in the form that the rest relies on: tuples of `Turn`.

    Raises:
        Drop, DataError: the function raised one of them.
        DataError: it raised something else, or returned something else than `Candidates`.
    """
    try:
        candidates = read(row)
    except (Drop, DataError):
        raise
    except Exception as error:
        ours = str(getattr(read, "__module__", "")).startswith(f"{__package__}.")
        if ours and isinstance(error, KeyError) and error.args and error.args[0] not in row:
            raise Drop(f"field {error.args[0]!r}: missing") from error
        raise DataError(f"adapter {name!r} raised {type(error).__name__}: {error}") from error
    if not isinstance(candidates, Candidates):
        raise DataError(f"adapter {name!r} returned {kind_of(candidates)}, expected prefopt.data.Candidates")
    if _is_in_form(candidates):
        return candidates
    try:
        prompt, responses = _turns(candidates.prompt), tuple(map(_response, _sequence(candidates.responses)))
    except TypeError as error:
        raise DataError(
            f"adapter {name!r} returned Candidates with {error}: `prompt` is a tuple of Turn, and each of `responses` "
            "is text or a tuple of Turn"
        ) from error
    return replace(candidates, prompt=prompt, responses=responses)


def _is_in_form(candidates: Candidates) -> bool:
    """Whether nothing need be mended; every row is asked this, so only the usual case is looked at."""
    prompt, responses = candidates.prompt, candidates.responses
    if not (type(prompt) is type(responses) is tuple):
        return False
    return {*map(type, prompt)} <= {Turn} and {*map(type, responses)} <= {str}


def _sequence(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{kind_of(value)} where a tuple belongs")
    return value


def _response(value: Any) -> Response:
    return value if isinstance(value, str) else _turns(value)


def _turns(value: Any) -> tuple[Turn, ...]:
    return tuple(map(_turn, _sequence(value)))


def _turn(value: Any) -> Turn:
    """Turns as they are, and {role, content} as turns."""
    if isinstance(value, Turn):
        return value
    if isinstance(value, Mapping) and {"role", "content"} <= value.keys():
        return Turn.of(**{name: str(text) for name, text in plain_turn(value).items()})
    raise TypeError(f"{kind_of(value)} where a turn belongs")


def check(candidates: Candidates, kind: str) -> Candidates:
    """The record, once all is true of it that must hold in any format.

    Raises:
        Drop: it cannot be used.
    """
    prompt, responses = candidates.prompt, candidates.responses
    if not prompt:
        raise Drop("no prompt")
    roles = [turn.role for turn in prompt]
    if len(roles) > 1 and "text" in roles:
        raise Drop("bare text beside other turns")
    if roles[-1] not in ("user", "tool", "text"):
        raise Drop(f"prompt ends on {_a_turn(roles[-1])}, expected a user turn")
    if next((role for role in roles if role != "system"), None) == "assistant":
        raise Drop("prompt starts on an assistant turn")
    for place, response in enumerate(responses):
        if _is_empty(response):
            raise Drop(f"empty {('chosen', 'rejected')[place] if kind == 'pair' else 'response'}")
        if not isinstance(response, str) and kind in ("pair", "list") and len(response) != 1:
            raise Drop(f"an answer is {len(response)} turns, expected one")
    if kind == "pair" and _same(*responses):
        raise Drop("identical answers")
    if not _is_unicode("".join(texts(candidates))):
        raise Drop("text holds half a surrogate pair, which is not valid Unicode")
    return candidates


def holds(kind: str, count: int) -> bool:
    """Whether a row of this kind may have so many responses."""
    return count >= 2 if kind == "list" else count == {"prompt": 0, "sft": 1, "unpaired": 1, "pair": 2}[kind]


def _a_turn(role: str) -> str:
    return f"a{'n' if role == 'assistant' else ''} {role} turn"


def _is_empty(response: Response) -> bool:
    """Whether a response says nothing: no text, nor calls of tools; a thought alone is no answer."""
    if isinstance(response, str):
        return not response.strip()
    return len(response) == 1 and not (response[0].content.strip() or response[0].tool_calls)


def _same(chosen: object, rejected: object) -> bool:
    if isinstance(chosen, str) and isinstance(rejected, str):
        return chosen.strip() == rejected.strip()
    return chosen == rejected


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _extras(row: Row, candidates: Candidates) -> dict[str, Any]:
    """The optional columns of a pair, as fields of `Candidates`."""
    columns: dict[str, Any] = {}
    names = next((names for names in PAIR_SCORES if names[0] in row and names[1] in row), None)
    if names is not None and candidates.scores is None:
        columns["scores"] = tuple(number(row, name) for name in names)
    if "margin" in row:
        columns["margin"] = number(row, "margin")
    if "grade" in row:
        columns["grade"] = grade(row)
    return columns

"""From a source of rows to a dataset of text: `load_preferences`, `load_sft`, `load_prompts`, and what they share.

`reading/` reads the files, an adapter says what each row means, and here the records become a `datasets.Dataset` with
the same columns for every format.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from .adapters import REGISTRY, Adapter, Drop, by_name, catalogue, from_outside, recognise
from .adapters.columns import QUESTIONS, Columns
from .adapters.file import File
from .adapters.rankings import UNORDERED
from .adapters.turn_keys import unread_keys
from .adapters.verdicts import Tie
from .mapping import check_columns, mapped
from .raw_rows import with_calls, without_nulls
from .reading import Located, Source, read_rows
from .records import TURN_EXTRAS, Candidates, DataError, Response, Turn
from .report import LoadReport, odd_scores
from .tokenised import BAD, is_tokenised
from .tokenised import read as tokenised_rows

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

KINDS = {
    "preferences": frozenset({"pair", "list"}),
    "unpaired": frozenset({"unpaired", "pair"}),  # a pair is two of them, see `encode.split_pairs`
    "sft": frozenset({"pair", "list", "unpaired", "sft"}),
    "prompts": frozenset({"pair", "list", "unpaired", "sft", "prompt"}),
    "any": frozenset({"pair", "list", "unpaired", "sft", "prompt"}),  # prompts, with whatever answers they have
    "own": frozenset({"pair", "list", "unpaired", "sft", "prompt"}),  # what the rows' own kind is for: a tie is no pair
}
"""Which kinds of row serve a purpose: SFT trains on the best of several responses, and every row has a prompt."""

ANY = KINDS["prompts"]

SAMPLE = 64
"""How many rows are looked at to recognise a format."""

Record = tuple[str, Candidates]
"""Where a row stands, and what it means."""


@dataclass(frozen=True)
class Reading:
    """How rows are read, whatever file they come from.

    Args:
        adapter: "auto" recognises the format; else the name of a known one, or `module:name` of an adapter of your
            own, see `prefopt.data.adapters.base`.
        split: which split of a dataset that has several.
        strict: make the first row that cannot be used an error.
        columns: what a column is called here -> what it is called in the rows, such as {"prompt": "ask", "chosen":
            "good", "rejected": "bad"}, with dots for what stands within an object ("input.text"). The other columns
            are left out, and named in the account.
        ties: what becomes of pairs whose scores are the same, or the other way round: "keep" or "drop". Either way
            they are counted.

    Raises:
        DataError: `columns` has a name that no format knows; `ties` is something else.
    """

    adapter: str = "auto"
    split: str = "train"
    strict: bool = False
    columns: Mapping[str, str] | None = None
    ties: str = "keep"

    def __post_init__(self) -> None:
        check_columns(self.columns)
        if self.ties not in ("keep", "drop"):
            raise DataError(f"ties={self.ties!r}: expected 'keep' or 'drop'")


def load_preferences(
    source: Source,
    adapter: str = "auto",
    split: str = "train",
    strict: bool = False,
    columns: Mapping[str, str] | None = None,
    ties: str = "keep",
) -> "datasets.Dataset":
    """Preference rows of any known format: `prompt` (list of {role, content}), `chosen`, `rejected` (text).

    Turns have more where rows have it, see `TURN_EXTRAS`, and `tool_calls` has for each response the tools that it
    calls. Also `margin`, `grade`, `score_chosen`, `score_rejected` where known. K-lists have `responses` (best first
    where scores say so) and `scores` instead of a pair. `finished`, where the rows say it, has for each response
    whether it is terminated: the model ended it by itself; one that was truncated gets no stop token. What was repaired
    and dropped, and which columns nobody read, is logged; `load` returns it as well.

    Args:
        source: a file, a folder, a hub id, a `datasets.Dataset` or a list of dicts.
        adapter, split, strict, columns, ties: how to read it, see `Reading`.

    Raises:
        DataError: no row can be read, or no adapter knows them; a row that contradicts itself.
    """
    return load(source, "preferences", adapter, split, strict, columns, ties)[0]


def load_sft(
    source: Source,
    adapter: str = "auto",
    split: str = "train",
    strict: bool = False,
    columns: Mapping[str, str] | None = None,
) -> "datasets.Dataset":
    """Demonstrations of any known format: `prompt` (list of {role, content}) and `response`, the first answer's text.

    A dataset with conversations of several answers has one more column, `later_turns`: the turns after that answer
    (empty in a row with one answer). Of a preference row the best response is taken, and a row whose label calls its
    answer a bad one is dropped. `finished`, where the rows say it, has whether the (last) answer is terminated. The
    arguments are those of `load_preferences`.
    """
    return load(source, "sft", adapter, split, strict, columns)[0]


def load_prompts(
    source: Source,
    adapter: str = "auto",
    split: str = "train",
    strict: bool = False,
    columns: Mapping[str, str] | None = None,
) -> "datasets.Dataset":
    """The prompts of rows of any known format: `prompt` (list of {role, content}); see `load_preferences`."""
    return load(source, "prompts", adapter, split, strict, columns)[0]


def load(
    source: Source,
    purpose: str = "preferences",
    adapter: str = "auto",
    split: str = "train",
    strict: bool = False,
    columns: Mapping[str, str] | None = None,
    ties: str = "keep",
) -> tuple["datasets.Dataset", LoadReport]:
    """The dataset and the account of what was kept, repaired and dropped, which is also logged, a line each.

    Args:
        purpose: what the rows are for: "preferences", "unpaired" (`response` and its `label`, or pairs), "sft",
            "prompts", or "any" for prompts with whatever answers there are.
        source, adapter, split, strict, columns, ties: as of `load_preferences`.
    """
    reading = Reading(adapter, split, strict, columns, ties)
    first, rest, report = _opened(source, reading)
    if adapter == "auto" and is_tokenised(first[0][1]):
        report.adapter = "token ids"
        encoded = tokenised_rows(chain(first, rest), report, purpose, reading.ties == "drop")
        _log(report, bool(encoded))
        return encoded, report
    records, used = _understood(first, rest, report, reading, purpose)
    _log(report, bool(records))
    kind = {"sft": "sft", "prompts": "prompt"}.get(purpose, used.kind)
    return to_dataset([candidates for _, candidates in records], kind), report


def _log(report: LoadReport, kept: bool) -> None:
    usual = logging.WARNING if report.needs_attention else logging.INFO
    levels = {report.warning: logging.WARNING, report.remark: logging.INFO}
    for line in report.lines():
        log.log(levels.get(line, usual), "%s", line)
    if not kept:
        raise DataError("no row could be used\n" + "\n".join(report.lines()))


def parse(
    source: Source, reading: Reading | None = None, purpose: str = "any"
) -> tuple[list[Record], Adapter, LoadReport]:
    """The records of a source with the place of each, the adapter that read them, and the account."""
    reading = reading or Reading()
    first, rest, report = _opened(source, reading)
    return *_understood(first, rest, report, reading, purpose), report


def _opened(source: Source, reading: Reading) -> tuple[list[Located], Iterator[Located], LoadReport]:
    """The first rows of a source, by which their format is told, the others, and the account of reading them."""
    report = LoadReport(_name(source), reading.strict)
    rows = read_rows(source, reading.split, report)
    if reading.columns:
        rows = mapped(rows, reading.columns, report)
    rows = ((origin, with_calls(without_nulls(row))) for origin, row in rows)
    sample = list(islice(rows, SAMPLE))
    if not sample:
        raise DataError("\n".join([f"{report.source}: no row could be read", *report.lines()[1:]]))
    return sample, rows, report


def _understood(
    first: list[Located], rest: Iterator[Located], report: LoadReport, reading: Reading, purpose: str
) -> tuple[list[Record], Adapter]:
    """What the rows mean, and the adapter that says so."""
    if purpose not in KINDS:
        raise DataError(f"unknown purpose {purpose!r}; known are {', '.join(KINDS)}")
    kinds = KINDS[purpose]
    known = reading.adapter == "auto"
    used = _recognised(first, kinds) if known else _allowed(_named(reading.adapter, first), kinds)
    report.adapter = used.name
    if any(used.needs_file(row) for _, row in first):
        first, rest = [*first, *rest], iter(())
    file = File([row for _, row in first], QUESTIONS)
    return list(_adapted(chain(first, rest), file, used, report, purpose, reading.ties == "drop")), used


def _name(source: Any) -> str:
    """What the account calls a source: its path or hub id, else its type."""
    return str(source) if isinstance(source, str) or hasattr(source, "__fspath__") else type(source).__name__


def _named(name: str, sample: list[Located]) -> Adapter:
    """The adapter of this name, ours or a user's own."""
    if ":" in name and name not in REGISTRY:
        return from_outside(name, sample)
    return by_name(name)


def _adapted(
    rows: Iterable[Located], file: File, adapter: Adapter, report: LoadReport, purpose: str, drop_ties: bool
) -> Iterator[Record]:
    for origin, columns in rows:
        row = Columns(columns, file)
        try:
            candidates = adapter(row)
            _check_purpose(candidates, adapter.kind, purpose)
        except Tie as tie:
            if purpose not in ("prompts", "any"):
                report.drop(str(tie), origin)
                continue
            candidates = tie.candidates
        except Drop as reason:
            report.drop(str(reason), origin)
            continue
        except DataError as error:
            raise DataError(f"{origin}: {error}") from error
        report.leave_out(row, row.unread(), adapter.left_out)
        report.unread.update(unread_keys(row))
        if (note := odd_scores(candidates.scores if adapter.kind == "pair" else None)) is not None:
            if drop_ties:
                report.drop(note, origin)
                continue
            report.note(note, origin)
        for repair in candidates.repairs:
            report.repair(repair, origin)
        report.kept += 1
        yield origin, candidates


def _check_purpose(candidates: Candidates, kind: str, purpose: str) -> None:
    """Drop what is no demonstration: an answer that is called bad, or the first of several in no order."""
    if purpose != "sft":
        return
    if candidates.label is False:
        raise Drop(BAD)
    if kind == "list" and candidates.scores is None:
        raise Drop(UNORDERED)


def _recognised(sample: list[Located], kinds: frozenset[str]) -> Adapter:
    """The adapter that knows these rows, or an error that says which formats there are."""
    rows = [row for _, row in sample]
    adapter = recognise(rows, kinds)
    if adapter is not None:
        return adapter
    if is_tokenised(rows[0]):
        raise DataError(
            f"{sample[0][0]}: the rows are token ids, which training takes as they are; only rows of text can be read "
            "here, so give the file that they were made from"
        )
    other = recognise(rows, ANY)
    hint = (
        f"\nThey look like {other.name!r}, which holds no {_wanted(kinds)}: use another load function." if other else ""
    )
    keys = ", ".join(f"{name} ({type(value).__name__})" for name, value in rows[0].items())
    raise DataError(
        f"{sample[0][0]}: no adapter knows rows with the fields {keys}. Say what they are by `columns`, such as "
        "prompt=NAME chosen=NAME rejected=NAME, or prompt=NAME response_a=NAME response_b=NAME winner=NAME where a "
        f"column names the better of two; or use one of the formats\n{catalogue(kinds)}{hint}"
    )


def _wanted(kinds: frozenset[str]) -> str:
    """What rows of these kinds have, in a word."""
    return "answer" if "sft" in kinds else "preference"


def _allowed(adapter: Adapter, kinds: frozenset[str]) -> Adapter:
    """The adapter, if rows of its kind serve the purpose."""
    if adapter.kind not in kinds:
        raise DataError(f"adapter {adapter.name!r} holds no {_wanted(kinds)}; adapters that do are\n{catalogue(kinds)}")
    return adapter


def to_dataset(records: list[Candidates], kind: str) -> "datasets.Dataset":
    """Records of one kind ("pair", "list", "sft", "prompt") as a table; columns nobody filled are left out."""
    import datasets
    import pyarrow

    types: dict[str, Any] = {name: datasets.Value("float64") for name in ("margin", "score_chosen", "score_rejected")}
    types |= {name: datasets.Value("string") for name in ("chosen", "rejected", "response", "grade")}
    types |= {"label": datasets.Value("bool"), "sampled_by": datasets.Value("string")}
    types["sampled_ids"] = datasets.List(datasets.List(datasets.Value("int32")))
    lists = {"responses": "string", "scores": "float64", "finished": "bool", "tool_calls": "string"}
    types |= {name: datasets.List(datasets.Value(kind)) for name, kind in lists.items()}
    columns = {"prompt": [_plain(record.prompt) for record in records], **_COLUMNS[kind](records)}
    columns = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    types |= {name: _chat_type(columns[name]) for name in ("prompt", "later_turns") if name in columns}
    schema = datasets.Features({name: types[name] for name in columns}).arrow_schema
    # `Dataset.from_dict` would look at every cell in Python, whose types are known here.
    return datasets.Dataset(datasets.table.InMemoryTable(pyarrow.Table.from_pydict(columns, schema=schema)))


def _chat_type(chats: Iterable[list[dict[str, str]]]) -> Any:
    """The type of conversations: of the extras, those that some turn has."""
    import datasets

    some = {"role", "content"} | {name for chat in chats for turn in chat if len(turn) > 2 for name in turn}
    return datasets.List({n: datasets.Value("string") for n in ("role", "content", *TURN_EXTRAS) if n in some})


def _plain(chat: Iterable[Turn]) -> list[dict[str, str]]:
    return [turn.message for turn in chat]


def _text(response: Response) -> str:
    """What a response says; of several turns, what the first of them says."""
    return response if isinstance(response, str) else response[0].content


def _calls(responses: Iterable[Response]) -> list[str | None] | None:
    """The tools that each response calls, None where none does."""
    calls = [None if isinstance(response, str) else response[0].tool_calls or None for response in responses]
    return calls if any(calls) else None


def _pair_columns(records: list[Candidates]) -> dict[str, list[Any]]:
    return {
        "chosen": [_text(record.responses[0]) for record in records],
        "rejected": [_text(record.responses[1]) for record in records],
        "tool_calls": [_calls(record.responses) for record in records],
        "margin": [record.margin for record in records],
        "grade": [record.grade for record in records],
        "score_chosen": [record.scores and record.scores[0] for record in records],
        "score_rejected": [record.scores and record.scores[1] for record in records],
        "finished": [record.finished and list(record.finished) for record in records],
        **_sampled(records),
    }


def _sampled(records: list[Candidates], count: int | None = None) -> dict[str, list[Any]]:
    """What a policy sampled, of the first `count` responses."""
    if all(record.sampled_ids is None for record in records):
        return {}
    ids = [record.sampled_ids and list(map(list, record.sampled_ids[:count])) for record in records]
    return {"sampled_ids": ids, "sampled_by": [record.sampled_by for record in records]}


def _list_columns(records: list[Candidates]) -> dict[str, list[Any]]:
    return {
        "responses": [list(map(_text, record.responses)) for record in records],
        "tool_calls": [_calls(record.responses) for record in records],
        "scores": [record.scores and list(record.scores) for record in records],
        "finished": [record.finished and list(record.finished) for record in records],
        **_sampled(records),
    }


def _sft_columns(records: list[Candidates]) -> dict[str, list[Any]]:
    whole = [record.responses[0] for record in records]
    later = [[] if isinstance(response, str) else _plain(response[1:]) for response in whole]
    return {
        "response": list(map(_text, whole)),
        "tool_calls": [_calls(record.responses[:1]) for record in records],
        "later_turns": later if any(later) else [None] * len(later),
        "finished": [record.finished and list(record.finished[:1]) for record in records],
        **_sampled(records, 1),
    }


def _unpaired_columns(records: list[Candidates]) -> dict[str, list[Any]]:
    return {**_sft_columns(records), "label": [record.label for record in records]}


_COLUMNS = {
    "pair": _pair_columns,
    "unpaired": _unpaired_columns,
    "list": _list_columns,
    "sft": _sft_columns,
    "prompt": lambda records: {},
}

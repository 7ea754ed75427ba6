"""From a source of rows to a dataset of text: `load_preferences`, `load_sft`, `load_prompts`, and what they share.

`reading/` reads the files, an adapter says what each row means, and here the records become a `datasets.Dataset` with
the same columns for every format.
"""

import logging
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from .adapters import REGISTRY, Adapter, Drop, by_name, catalogue, from_outside, recognise
from .reading import Located, Source, read_rows
from .records import Candidates, DataError, Turn
from .report import LoadReport

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

KINDS = {
    "preferences": frozenset({"pair", "list"}),
    "sft": frozenset({"pair", "list", "sft"}),
    "prompts": frozenset({"pair", "list", "sft", "prompt"}),
    "any": frozenset({"pair", "list", "sft", "prompt"}),  # prompts, with whatever answers they have
}
"""Which kinds of row serve a purpose: SFT trains on the best of several responses, and every row has a prompt."""

ANY = KINDS["prompts"]

SAMPLE = 64
"""How many rows are looked at to recognise a format."""

Record = tuple[str, Candidates]
"""Where a row stands, and what it means."""


def load_preferences(
    source: Source, adapter: str = "auto", split: str = "train", strict: bool = False
) -> "datasets.Dataset":
    """Preference rows of any known format: `prompt` (list of {role, content}), `chosen`, `rejected` (text).

    Also `margin`, `grade`, `score_chosen`, `score_rejected` where known. K-lists have `responses` (best first where
    scores say so) and `scores` instead of a pair. `finished`, where the rows say it, has for each response whether it
    is terminated: the model ended it by itself; one that was truncated gets no stop token. What was repaired and
    dropped is logged; `load` returns it as well.

    Args:
        source: a file, a folder, a hub id, a `datasets.Dataset` or a list of dicts.
        adapter: how to read the rows: "auto" recognises the format; else the name of a known format, or `module:name`
            of an adapter of your own, see `prefopt.data.adapters.base`.
        split: which split of a dataset that has several.
        strict: make the first row that cannot be used an error.

    Raises:
        DataError: no row can be read, or no adapter knows them; a row that contradicts itself.
    """
    return load(source, "preferences", adapter, split, strict)[0]


def load_sft(source: Source, adapter: str = "auto", split: str = "train", strict: bool = False) -> "datasets.Dataset":
    """Demonstrations of any known format: `prompt` (list of {role, content}) and `response`, the first answer's text.

    A dataset with conversations of several answers has one more column, `later_turns`: the turns after that answer
    (empty in a row with one answer). Of a preference row the best response is taken. `finished`, where the rows say it,
    has whether the (last) answer is terminated. The arguments are those of `load_preferences`.
    """
    return load(source, "sft", adapter, split, strict)[0]


def load_prompts(
    source: Source, adapter: str = "auto", split: str = "train", strict: bool = False
) -> "datasets.Dataset":
    """The prompts of rows of any known format: `prompt` (list of {role, content}); see `load_preferences`."""
    return load(source, "prompts", adapter, split, strict)[0]


def load(
    source: Source, purpose: str = "preferences", adapter: str = "auto", split: str = "train", strict: bool = False
) -> tuple["datasets.Dataset", LoadReport]:
    """The dataset and the account of what was kept, repaired and dropped, which is also logged, a line each.

    Args:
        purpose: what the rows are for: "preferences", "sft", "prompts", or "any" for prompts with whatever answers
            there are.
    """
    if purpose not in KINDS:
        raise DataError(f"unknown purpose {purpose!r}; known are {', '.join(KINDS)}")
    records, used, report = parse(source, adapter, split, strict, KINDS[purpose])
    level = logging.WARNING if report.dropped or report.repaired else logging.INFO
    for line in report.lines():
        log.log(level, "%s", line)
    if not records:
        raise DataError("no row could be used\n" + "\n".join(report.lines()))
    kind = {"sft": "sft", "prompts": "prompt"}.get(purpose, used.kind)
    return to_dataset([candidates for _, candidates in records], kind), report


def parse(
    source: Source, adapter: str = "auto", split: str = "train", strict: bool = False, kinds: frozenset[str] = ANY
) -> tuple[list[Record], Adapter, LoadReport]:
    """The records of a source with the place of each, the adapter that read them, and the account."""
    report = LoadReport(_name(source), strict)
    rows = read_rows(source, split, report)
    sample = list(islice(rows, SAMPLE))
    if not sample:
        raise DataError("\n".join([f"{report.source}: no row could be read", *report.lines()[1:]]))
    used = _recognised(sample, kinds) if adapter == "auto" else _allowed(_named(adapter, sample), kinds)
    report.adapter = used.name
    return list(_adapted(chain(sample, rows), used, report)), used, report


def _name(source: Any) -> str:
    """What the account calls a source: its path or hub id, else its type."""
    return str(source) if isinstance(source, str) or hasattr(source, "__fspath__") else type(source).__name__


def _named(name: str, sample: list[Located]) -> Adapter:
    """The adapter of this name, ours or a user's own."""
    if ":" in name and name not in REGISTRY:
        return from_outside(name, ((origin, _without_nulls(row)) for origin, row in sample))
    return by_name(name)


def _adapted(rows: Iterable[Located], adapter: Adapter, report: LoadReport) -> Iterator[Record]:
    for origin, row in rows:
        try:
            candidates = adapter(_without_nulls(row))
        except Drop as reason:
            report.drop(str(reason), origin)
            continue
        except DataError as error:
            raise DataError(f"{origin}: {error}") from error
        for repair in candidates.repairs:
            report.repair(repair, origin)
        report.kept += 1
        yield origin, candidates


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """The row less its nulls: a table has a column for every field that any row had."""
    return row if None not in row.values() else {name: value for name, value in row.items() if value is not None}


def _recognised(sample: list[Located], kinds: frozenset[str]) -> Adapter:
    """The adapter that knows these rows, or an error that says which formats there are."""
    rows = [_without_nulls(row) for _, row in sample]
    adapter = recognise(rows, kinds)
    if adapter is not None:
        return adapter
    other = recognise(rows, ANY)
    hint = (
        f"\nThey look like {other.name!r}, which holds no {_wanted(kinds)}: use another load function." if other else ""
    )
    keys = ", ".join(f"{name} ({type(value).__name__})" for name, value in rows[0].items())
    raise DataError(
        f"{sample[0][0]}: no adapter knows rows with the fields {keys}; known are\n{catalogue(kinds)}{hint}"
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

    chat = datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")})
    types = {"prompt": chat, "later_turns": chat}
    types |= {name: datasets.Value("float64") for name in ("margin", "score_chosen", "score_rejected")}
    types |= {name: datasets.Value("string") for name in ("chosen", "rejected", "response", "grade")}
    lists = {"responses": "string", "scores": "float64", "finished": "bool"}
    types |= {name: datasets.List(datasets.Value(kind)) for name, kind in lists.items()}
    columns = {"prompt": [_plain(record.prompt) for record in records], **_COLUMNS[kind](records)}
    columns = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    return datasets.Dataset.from_dict(columns, features=datasets.Features({name: types[name] for name in columns}))


def _plain(chat: Iterable[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in chat]


def _pair_columns(records: list[Candidates]) -> dict[str, list[Any]]:
    return {
        "chosen": [record.responses[0] for record in records],
        "rejected": [record.responses[1] for record in records],
        "margin": [record.margin for record in records],
        "grade": [record.grade for record in records],
        "score_chosen": [record.scores and record.scores[0] for record in records],
        "score_rejected": [record.scores and record.scores[1] for record in records],
        "finished": [record.finished and list(record.finished) for record in records],
    }


def _list_columns(records: list[Candidates]) -> dict[str, list[Any]]:
    return {
        "responses": [list(record.responses) for record in records],
        "scores": [record.scores and list(record.scores) for record in records],
        "finished": [record.finished and list(record.finished) for record in records],
    }


def _sft_columns(records: list[Candidates]) -> dict[str, list[Any]]:
    whole = [record.responses[0] for record in records]
    first = [response if isinstance(response, str) else response[0].content for response in whole]
    later = [[] if isinstance(response, str) else _plain(response[1:]) for response in whole]
    return {
        "response": first,
        "later_turns": later if any(later) else [None] * len(later),
        "finished": [record.finished and list(record.finished[:1]) for record in records],
    }


_COLUMNS = {"pair": _pair_columns, "list": _list_columns, "sft": _sft_columns, "prompt": lambda records: {}}

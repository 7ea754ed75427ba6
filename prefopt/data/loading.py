"""Source -> checked records -> `datasets.Dataset` of text; knows neither file formats, nor raw schemas, nor tokens."""

import logging
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from .adapters import Adapter, Drop, by_name, catalogue, recognise
from .readers import Located, Source, read_rows
from .records import Candidates, DataError, Turn
from .report import LoadReport

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

# Which kinds of row serve a purpose: SFT trains on the best of several responses, and every row has a prompt.
KINDS = {
    "preferences": frozenset({"pair", "list"}),
    "sft": frozenset({"pair", "list", "sft"}),
    "prompts": frozenset({"pair", "list", "sft", "prompt"}),
    "any": frozenset({"pair", "list", "sft", "prompt"}),  # prompts, with whatever answers they have
}
ANY = KINDS["prompts"]
SAMPLE = 64  # rows looked at to recognise a format

Record = tuple[str, Candidates]


def load_preferences(
    source: Source, adapter: str = "auto", split: str = "train", strict: bool = False
) -> "datasets.Dataset":
    """Preference rows of any known format: `prompt` (list of {role, content}), `chosen`, `rejected` (text).

    Also `margin`, `grade`, `score_chosen`, `score_rejected` where known. K-lists have `responses` (best first where
    scores say so) and `scores` instead of a pair. `finished`, where given, says of each response whether it ended by
    itself. What was repaired and dropped is logged; `load` returns it as well.
    """
    return load(source, "preferences", adapter, split, strict)[0]


def load_sft(source: Source, adapter: str = "auto", split: str = "train", strict: bool = False) -> "datasets.Dataset":
    """Demonstrations: `prompt` (list of {role, content}) and `response`, the text of the first answer.

    A dataset with conversations of several answers has one more column, `later_turns`: the turns after that answer
    (empty in a row with one answer). Of a preference row the best response is taken. `finished`, where given, says
    whether the (last) answer ended by itself.
    """
    return load(source, "sft", adapter, split, strict)[0]


def load_prompts(
    source: Source, adapter: str = "auto", split: str = "train", strict: bool = False
) -> "datasets.Dataset":
    """The prompts of rows of any known format: `prompt` (list of {role, content})."""
    return load(source, "prompts", adapter, split, strict)[0]


def load(
    source: Source, purpose: str = "preferences", adapter: str = "auto", split: str = "train", strict: bool = False
) -> tuple["datasets.Dataset", LoadReport]:
    """The dataset and the account of what was kept, repaired and dropped, which is also logged, a line each."""
    if purpose not in KINDS:
        raise DataError(f"unknown purpose {purpose!r}; known are {', '.join(KINDS)}")
    records, chosen, report = parse(source, adapter, split, strict, KINDS[purpose])
    level = logging.WARNING if report.dropped or report.repaired else logging.INFO
    for line in report.lines():
        log.log(level, "%s", line)
    if not records:
        raise DataError("no row could be used\n" + "\n".join(report.lines()))
    kind = {"sft": "sft", "prompts": "prompt"}.get(purpose, chosen.kind)
    return to_dataset([candidates for _, candidates in records], kind), report


def parse(
    source: Source, adapter: str = "auto", split: str = "train", strict: bool = False, kinds: frozenset[str] = ANY
) -> tuple[list[Record], Adapter, LoadReport]:
    """Records with their origin, the adapter that read them, and the account."""
    report = LoadReport(_name(source), strict)
    rows = read_rows(source, split, report)
    sample = list(islice(rows, SAMPLE))
    if not sample:
        raise DataError("\n".join([f"{report.source}: no row could be read", *report.lines()[1:]]))
    chosen = _recognised(sample, kinds) if adapter == "auto" else _allowed(by_name(adapter), kinds)
    report.adapter = chosen.name
    return list(_adapted(chain(sample, rows), chosen, report)), chosen, report


def _name(source: Any) -> str:
    return (
        f"{type(source).__name__}" if not isinstance(source, str) and not hasattr(source, "__fspath__") else str(source)
    )


def _adapted(rows: Iterable[Located], adapter: Adapter, report: LoadReport) -> Iterator[Record]:
    for origin, row in rows:
        try:
            candidates = adapter(_present(row))
        except Drop as reason:
            report.drop(str(reason), origin)
            continue
        for repair in candidates.repairs:
            report.repair(repair, origin)
        report.kept += 1
        yield origin, candidates


def _present(row: dict[str, Any]) -> dict[str, Any]:
    """The row less its nulls: a table has a column for every field that any row had."""
    return row if None not in row.values() else {name: value for name, value in row.items() if value is not None}


def _recognised(sample: list[Located], kinds: frozenset[str]) -> Adapter:
    rows = [_present(row) for _, row in sample]
    found = recognise(rows, kinds)
    if found is not None:
        return found
    other = recognise(rows, ANY)
    hint = (
        f"\nThey look like {other.name!r}, which holds no {_wanted(kinds)}: use another load function." if other else ""
    )
    keys = ", ".join(f"{name} ({type(value).__name__})" for name, value in rows[0].items())
    raise DataError(
        f"{sample[0][0]}: no adapter knows rows with the fields {keys}; known are\n{catalogue(kinds)}{hint}"
    )


def _wanted(kinds: frozenset[str]) -> str:
    return "answer" if "sft" in kinds else "preference"


def _allowed(adapter: Adapter, kinds: frozenset[str]) -> Adapter:
    if adapter.kind not in kinds:
        raise DataError(f"adapter {adapter.name!r} holds no {_wanted(kinds)}; adapters that do are\n{catalogue(kinds)}")
    return adapter


def to_dataset(records: list[Candidates], kind: str) -> "datasets.Dataset":
    """Records of one kind ("pair", "list", "sft", "prompt") as a table; columns nobody filled are left out."""
    import datasets

    turns = datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")})
    types = {"prompt": turns, "later_turns": turns}
    types |= {name: datasets.Value("float64") for name in ("margin", "score_chosen", "score_rejected")}
    types |= {name: datasets.Value("string") for name in ("chosen", "rejected", "response", "grade")}
    lists = {"responses": "string", "scores": "float64", "finished": "bool"}
    types |= {name: datasets.List(datasets.Value(kind)) for name, kind in lists.items()}
    columns = {"prompt": [_plain(record.prompt) for record in records], **_COLUMNS[kind](records)}
    columns = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    return datasets.Dataset.from_dict(columns, features=datasets.Features({name: types[name] for name in columns}))


def _plain(turns: Iterable[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


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

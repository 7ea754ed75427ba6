"""From a source of rows to a dataset of text: `load_preferences`, `load_sft`, `load_prompts`, and what they share.

`reading/` reads the files, an adapter says what each row means, see `recognising.py` for which, and `text_table.py`
makes a `datasets.Dataset` of the records, with the same columns for every format.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from ..utils.collector import collector_paused
from .adapters import Adapter, Drop
from .adapters.columns import QUESTIONS, Columns
from .adapters.file import File
from .adapters.rankings import UNORDERED
from .adapters.turn_keys import unread_keys
from .adapters.verdicts import Tie
from .mapping import check_columns, mapped
from .raw_rows import with_extras, without_nulls
from .reading import Located, Source, read_rows
from .recognising import adapter_for
from .records import Candidates, DataError
from .report import LoadReport, odd_scores
from .text_table import to_dataset
from .tokenised import BAD, is_tokenised
from .tokenised import read as tokenised_rows

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

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
    answer a bad one is dropped. `finished`, where the rows say it, has whether the (last) answer is terminated.

    Args:
        source: a file, a folder, a hub id, a `datasets.Dataset` or a list of dicts.
        adapter, split, strict, columns: how to read it, as of `load_preferences`.

    Raises:
        DataError: no row can be read, or no adapter knows them; a row that contradicts itself.
    """
    return load(source, "sft", adapter, split, strict, columns)[0]


def load_prompts(
    source: Source,
    adapter: str = "auto",
    split: str = "train",
    strict: bool = False,
    columns: Mapping[str, str] | None = None,
) -> "datasets.Dataset":
    """The prompts of rows of any known format: `prompt` (list of {role, content}).

    Answers are left out, so that the rows of any preference dataset will do.

    Args:
        source: a file, a folder, a hub id, a `datasets.Dataset` or a list of dicts.
        adapter, split, strict, columns: how to read it, as of `load_preferences`.

    Raises:
        DataError: no row can be read, or no adapter knows them.
    """
    return load(source, "prompts", adapter, split, strict, columns)[0]


@collector_paused()
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
    rows = ((origin, with_extras(without_nulls(row))) for origin, row in rows)
    sample = list(islice(rows, SAMPLE))
    if not sample:
        raise DataError("\n".join([f"{report.source}: no row could be read", *report.lines()[1:]]))
    return sample, rows, report


def _understood(
    first: list[Located], rest: Iterator[Located], report: LoadReport, reading: Reading, purpose: str
) -> tuple[list[Record], Adapter]:
    """What the rows mean, and the adapter that says so."""
    used = adapter_for(first, reading.adapter, purpose)
    report.adapter = used.name
    if any(used.needs_file(row) for _, row in first):
        first, rest = [*first, *rest], iter(())
    file = File([row for _, row in first], QUESTIONS)
    return list(_adapted(chain(first, rest), file, used, report, purpose, reading.ties == "drop")), used


def _name(source: Any) -> str:
    """What the account calls a source: its path or hub id, else its type."""
    return str(source) if isinstance(source, str) or hasattr(source, "__fspath__") else type(source).__name__


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

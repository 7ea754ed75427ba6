"""What is wrong with a dataset, in counts and examples: what `prefopt data check` prints.

It looks for rows that cannot be used, for what happens to rows on their way to token ids (`check_encoding.py`), for
rows that repeat or contradict others and for prompts that two files share. It changes no data and needs no model.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from .adapters import Adapter
from .check_encoding import encoding_findings
from .findings import FileReport, Finding, LengthBias, Report, Sample
from .loading import Reading, Record, parse
from .records import ANSWER_EXTRAS, Response
from .report import LoadReport
from .text_prompts import check_mode, users_turns, with_turns
from .text_table import to_dataset
from .truncation import Encoding

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase


def check(
    files: Sequence[Any],
    reading: Reading | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    max_length: int | None = None,
    text_prompts: str = "auto",
    progress: bool = False,
) -> Report:
    """Read files as the load functions do and look for what spoils training.

    Args:
        files: what the load functions take: files, folders, hub ids, lists of rows.
        reading: how to read them; by default the format of each is recognised.
        tokenizer: to look at what happens on the way to token ids; None leaves that out.
        max_length: with a tokenizer, the longest sequence in tokens.
        text_prompts: what a prompt of bare text is in training, as the option of the same name there; "auto" needs a
            tokenizer.
        progress: show a progress bar on stderr.

    Raises:
        DataError: a file cannot be read; an unknown mode of `text_prompts`.
    """
    check_mode(text_prompts)
    reports, prompts = [], []
    for source in files:
        records, used, load = parse(source, reading, "own")
        report = FileReport(load, used.kind, used.fields, _findings(records, used, load))
        report.labels, report.length = _labels(records, used.kind), _length_bias(records, used.kind)
        _train_as(report, records, tokenizer, Encoding(max_length), text_prompts, progress)
        reports.append(report)
        prompts.append(_by_prompt(records))
    return Report(reports, dict(_shared([report.load.source for report in reports], prompts)))


# ---- what the texts say ----------------------------------------------------------------------------------------------


def _findings(records: list[Record], used: Adapter, load: LoadReport) -> dict[str, Finding]:
    """What the texts of a file alone tell, without a tokenizer."""
    findings = {"duplicate_rows": _duplicates(records), "unread_telling": _unread_telling(load)}
    if used.name != "text":  # documents have no prompt
        findings["empty_prompts"] = _empty_prompts(records)
    if used.kind == "pair":
        findings |= _against(records)
    elif used.kind == "list":
        findings["repeated_answers"] = _repeated(records)
    elif used.kind == "unpaired":
        findings |= {"contradictions": _labelled_both_ways(records), "one_label": _one_label(records)}
    return findings


def _by_prompt(records: Iterable[Record]) -> dict[Any, str]:
    """Where each prompt is first seen."""
    places: dict[Any, str] = {}
    for origin, candidates in records:
        places.setdefault(candidates.prompt, origin)
    return places


def _shared(names: list[str], prompts: list[dict[Any, str]]) -> Iterator[tuple[tuple[str, str], Finding]]:
    """For each pair of files, the prompts that both hold."""
    for (name, places), (other_name, other_places) in combinations(zip(names, prompts, strict=True), 2):
        finding = Finding()
        for prompt, origin in places.items():
            if prompt in other_places:
                finding.add(f"{origin} = {other_places[prompt]}")
        yield (name, other_name), finding


def _duplicates(records: Iterable[Record]) -> Finding:
    """Rows that say the same as an earlier one."""
    finding, seen = Finding(), dict[tuple[Any, ...], str]()
    for origin, candidates in records:
        row = (candidates.prompt, candidates.responses, candidates.label)
        if row in seen:
            finding.add(f"{origin} = {seen[row]}")
        seen.setdefault(row, origin)
    return finding


def _unread_telling(load: LoadReport) -> Finding:
    """Columns that were left out, and may say something of their rows."""
    finding = Finding()
    for name, count in load.unread.most_common():
        finding.add(f"{name} ({count:,})", name in load.telling)
    return finding


def _empty_prompts(records: Iterable[Record]) -> Finding:
    finding = Finding()
    for origin, candidates in records:
        finding.add(origin, not candidates.prompt[-1].content.strip())
    return finding


def _against(records: list[Record]) -> dict[str, Finding]:
    """Pairs that say the opposite of an earlier one, and chosen answers that another pair to the prompt rejects.

    The latter alone need not be wrong: in pairs made from a ranking, answers in its middle are both.
    """
    found = {"contradictions": Finding(), "chosen_elsewhere_rejected": Finding()}
    pairs = [(origin, c.prompt, _stripped(c.responses[0]), _stripped(c.responses[1])) for origin, c in records]
    places: dict[Any, str] = {}
    rejecting: dict[Any, str] = {}
    for origin, prompt, chosen, rejected in pairs:
        places.setdefault((prompt, chosen, rejected), origin)
        rejecting.setdefault((prompt, rejected), origin)
    seen = set()
    for origin, prompt, chosen, rejected in pairs:
        opposite, seat = (prompt, rejected, chosen), (prompt, chosen)
        if opposite in seen:
            found["contradictions"].add(f"{origin} against {places[opposite]}")
        elif opposite not in places and seat in rejecting:
            found["chosen_elsewhere_rejected"].add(f"{origin} against {rejecting[seat]}")
        seen.add((prompt, chosen, rejected))
    return found


def _stripped(response: Response) -> Response:
    return response.strip() if isinstance(response, str) else response


def _repeated(records: Iterable[Record]) -> Finding:
    """Lists that hold an answer more than once."""
    finding = Finding()
    for origin, candidates in records:
        finding.add(origin, len(set(map(_stripped, candidates.responses))) < len(candidates.responses))
    return finding


def _labelled_both_ways(records: Iterable[Record]) -> Finding:
    """Answers that an earlier row calls the opposite."""
    finding, seen = Finding(), dict[tuple[Any, ...], str]()
    for origin, candidates in records:
        said = (candidates.prompt, _stripped(candidates.responses[0]))
        opposite = (*said, not candidates.label)
        if opposite in seen:
            finding.add(f"{origin} against {seen[opposite]}")
        seen.setdefault((*said, candidates.label), origin)
    return finding


def _one_label(records: list[Record]) -> Finding:
    """All rows, where they have one and the same label."""
    finding = Finding()
    if len({candidates.label for _, candidates in records}) == 1:
        for origin, _ in records:
            finding.add(origin)
    return finding


def _labels(records: Iterable[Record], kind: str) -> dict[str, int] | None:
    """How many answers are good and how many bad, of unpaired rows."""
    if kind != "unpaired":
        return None
    counts = Counter(candidates.label for _, candidates in records)
    return {"good": counts[True], "bad": counts[False]}


def _length(response: Response) -> int:
    """The characters of a response, those of its tool calls and thoughts among them."""
    return (
        len(response)
        if isinstance(response, str)
        else sum(len(t.content) + sum(len(t.extra(name)) for name in ANSWER_EXTRAS) for t in response)
    )


def _length_bias(records: Iterable[Record], kind: str) -> LengthBias | None:
    """Length in characters: a reward model that only counts them is right as often as `share` says."""
    if kind != "pair":
        return None
    from scipy.stats import binomtest, pointbiserialr

    lengths = [[_length(response) for response in candidates.responses] for _, candidates in records]
    unequal = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    if not unequal:
        return None
    interval = binomtest(sum(unequal), len(unequal)).proportion_ci()
    flat = [length for pair in lengths for length in pair]
    correlation = float(pointbiserialr([1, 0] * len(lengths), flat).statistic)
    return LengthBias(len(unequal), sum(unequal) / len(unequal), float(interval.low), float(interval.high), correlation)


# ---- what training makes of them -------------------------------------------------------------------------------------


def _train_as(
    report: FileReport,
    records: list[Record],
    tokenizer: "PreTrainedTokenizerBase | None",
    encoding: Encoding,
    text_prompts: str,
    progress: bool,
) -> None:
    """Add to a report what training sees of the rows: one of them, and what happens on the way to token ids."""
    if not records:
        return
    places = [origin for origin, _ in records]
    texts = to_dataset([candidates for _, candidates in records], report.kind)
    rows = _with_turns(texts, tokenizer, text_prompts)
    report.user_turns = _bare(texts) - _bare(rows)
    number, encoded = 0, None
    if tokenizer is not None:
        if text_prompts == "auto" and tokenizer.chat_template:
            report.findings["text_prompts"] = _text_prompts(places, texts)
        findings, number, encoded = encoding_findings(rows, places, report.kind, tokenizer, encoding, progress)
        report.findings |= findings
    row = {name: value for name, value in rows[number].items() if value is not None and value != []}
    report.sample = Sample(places[number], row, encoded)


def _with_turns(
    rows: "datasets.Dataset", tokenizer: "PreTrainedTokenizerBase | None", text_prompts: str
) -> "datasets.Dataset":
    """The rows with their bare prompts as training has them; without a tokenizer nothing tells what "auto" means."""
    if tokenizer is not None:
        return with_turns(rows, tokenizer, text_prompts)
    return users_turns(rows) if text_prompts == "user" else rows


def _bare(rows: "datasets.Dataset") -> int:
    """How many prompts are bare text that says something."""
    return sum(map(_is_question, rows["prompt"]))


def _text_prompts(places: list[str], texts: "datasets.Dataset") -> Finding:
    """Prompts of bare text, of which it is left open whether they are a user's turns."""
    finding = Finding()
    for origin, prompt in zip(places, texts["prompt"], strict=True):
        finding.add(origin, _is_question(prompt))
    return finding


def _is_question(prompt: list[dict[str, str]]) -> bool:
    """Whether a prompt is bare text that says something."""
    return prompt[0]["role"] == "text" and bool(prompt[0]["content"].strip())

"""What is wrong with a dataset, in counts and examples: what `prefopt data check` prints.

It looks for rows that cannot be used, for what happens to rows on their way to token ids, for duplicates and for
prompts that two files share. It changes no data and needs no model.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .loading import Reading, Record, parse, to_dataset
from .records import DataError, Response
from .report import EXAMPLES_PER_REASON, LoadReport
from .row_encoder import Encoder
from .truncation import Encoding

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

CLEAN, DROPPED, UNREADABLE = 0, 1, 2  # exit codes
BATCH = 256
DROPS = {
    "context_mismatches": "context mismatch",
    "empty_sides": "empty ",
    "identical_pairs": "identical ",
}
"""Names in the report -> how the reasons for dropping begin."""

_NOTED = {
    "prompts_cut": "_prompt_cut",
    "eos_lost": "_stops_lost",
    "template_mismatches": "_mismatches",
    "answers_dropped": "_answers_dropped",
    "tool_calls_unwritten": "_unwritten",
    "template_inputs_unread": "_inputs_unread",
    "special_tokens_kept": "_special_tokens_kept",
    "special_tokens_split": "_special_tokens_split",
}
"""Names in the report -> columns that the encoder counts in."""

RENAMED = {"special_tokens_kept": "specials_kept", "special_tokens_split": "specials_split"}
"""Names in the report -> what 0.1 called them; the JSON report has both until 0.3."""


@dataclass
class Finding:
    """How often something was found, and the first places."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, place: str, times: int = 1) -> None:
        self.count += times
        if times and len(self.examples) < EXAMPLES_PER_REASON:
            self.examples.append(place)


@dataclass(frozen=True)
class LengthBias:
    """How often the chosen answer is the longer one, of the pairs of unequal length, with its 95 % interval."""

    pairs: int
    share: float
    low: float
    high: float
    correlation: float  # point-biserial, of length and being chosen, over all answers


@dataclass
class FileReport:
    """What was found in one file."""

    load: LoadReport
    kind: str
    findings: dict[str, Finding]
    length: LengthBias | None = None

    def counts(self) -> dict[str, int]:
        """The drops that have a name of their own."""
        dropped = self.load.dropped.items()
        return {name: sum(n for reason, n in dropped if reason.startswith(start)) for name, start in DROPS.items()}

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        findings = {name: vars(finding) for name, finding in self.findings.items()}
        findings |= {old: findings[name] for name, old in RENAMED.items() if name in findings}
        return {
            **self.load.to_dict(),
            **self.counts(),
            **findings,
            "length": vars(self.length) if self.length else None,
        }


@dataclass
class Report:
    """What was found in all files, and between them."""

    files: list[FileReport]
    shared: dict[tuple[str, str], Finding]

    @property
    def exit_code(self) -> int:
        """0 where all is clean, 1 where a row was dropped."""
        return DROPPED if any(file.load.dropped for file in self.files) else CLEAN

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        shared = [{"files": list(names), **vars(finding)} for names, finding in self.shared.items()]
        return {"exit_code": self.exit_code, "files": [f.to_dict() for f in self.files], "shared_prompts": shared}


def check(
    files: Sequence[Any],
    reading: Reading | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    max_length: int | None = None,
) -> Report:
    """Read files as the load functions do and look for what spoils training.

    Args:
        files: what the load functions take: files, folders, hub ids, lists of rows.
        reading: how to read them; by default the format of each is recognised.
        tokenizer: to look at what happens on the way to token ids; None leaves that out.
        max_length: with a tokenizer, the longest sequence in tokens.

    Raises:
        DataError: a file cannot be read.
    """
    reports, prompts = [], []
    for source in files:
        records, used, load = parse(source, reading)
        findings = {"duplicate_rows": _duplicates(records)}
        if tokenizer is not None:
            findings |= _encoding(records, used.kind, tokenizer, Encoding(max_length))
        reports.append(FileReport(load, used.kind, findings, _length_bias(records) if used.kind == "pair" else None))
        prompts.append(_by_prompt(records))
    return Report(reports, dict(_shared([report.load.source for report in reports], prompts)))


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
        row = (candidates.prompt, candidates.responses)
        if row in seen:
            finding.add(f"{origin} = {seen[row]}")
        seen.setdefault(row, origin)
    return finding


def _length(response: Response) -> int:
    """The characters of a response, those of its tool calls among them."""
    return len(response) if isinstance(response, str) else sum(len(t.content) + len(t.tool_calls) for t in response)


def _length_bias(records: Iterable[Record]) -> LengthBias | None:
    """Length in characters: a reward model that only counts them is right as often as `share` says."""
    from scipy.stats import binomtest, pointbiserialr

    lengths = [[_length(response) for response in candidates.responses] for _, candidates in records]
    unequal = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    if not unequal:
        return None
    interval = binomtest(sum(unequal), len(unequal)).proportion_ci()
    flat = [length for pair in lengths for length in pair]
    correlation = float(pointbiserialr([1, 0] * len(lengths), flat).statistic)
    return LengthBias(len(unequal), sum(unequal) / len(unequal), float(interval.low), float(interval.high), correlation)


def _encoding(
    records: list[Record], kind: str, tokenizer: "PreTrainedTokenizerBase", encoding: Encoding
) -> dict[str, Finding]:
    """What happens to the rows on their way to token ids."""
    findings = {name: Finding() for name in (*_NOTED, "boundary_merges", "doubled_bos", "doubled_eos")}
    encoder = Encoder(tokenizer, encoding, _generation_config(tokenizer))
    table = to_dataset([candidates for _, candidates in records], kind)
    for start in range(0, len(records), BATCH):
        batch = table[start : start + BATCH]
        encoded = encoder(batch, list(range(start, start + len(batch["prompt"]))))
        for number, (origin, _) in enumerate(records[start : start + BATCH]):
            for name, note in _NOTED.items():
                findings[name].add(origin, encoded[note][number])
            for name, times in _boundaries({column: batch[column][number] for column in batch}, encoder).items():
                findings[name].add(origin, times)
    return findings


def _generation_config(tokenizer: "PreTrainedTokenizerBase") -> "GenerationConfig | None":
    """What lies in the tokenizer's folder, so that responses end here as they do in training."""
    folder = Path(tokenizer.name_or_path)
    if not tokenizer.name_or_path or not (folder / "generation_config.json").is_file():
        return None
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / 'generation_config.json'}: cannot be read: {error}") from error


def _boundaries(row: dict[str, Any], encoder: Encoder) -> dict[str, int]:
    """What goes wrong at the edges of a row when prompt and answer are tokenised together, specials added blindly."""
    opening, responses = encoder.render(row, 0)[:2]
    answers = [segments[0].text for segments in responses]
    alone, *rest = encoder.tokenise([opening, *answers, *(opening + answer for answer in answers)])
    apart, joint = rest[: len(answers)], rest[len(answers) :]
    stop = encoder.renderer.end(row["prompt"])
    return {
        "boundary_merges": sum(ids[: len(alone)] != alone for ids in joint),
        "doubled_bos": int(encoder.brings_bos(alone, row["prompt"])),
        "doubled_eos": sum(ids[-1:] == [stop] for ids in apart),
    }

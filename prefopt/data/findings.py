"""What a check of data found, how often and where, and how grave it is: what `check.py` fills and people are shown."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .report import EXAMPLES_PER_REASON, LoadReport

CLEAN, FAULTY, UNREADABLE = 0, 1, 2  # exit codes

ERRORS = frozenset({"contradictions", "refused", "tool_calls_unwritten", "identical_encoded"})
"""Findings that make a file faulty, as dropped rows do; all others are things to look at."""

REMARKS = frozenset({"tool_keys_unread"})
"""Findings that are as they should be: neither errors nor things to look at."""

NAMED = {
    "context_mismatches": ("dropped", "context mismatch"),
    "empty_sides": ("dropped", "empty "),
    "identical_pairs": ("dropped", "identical "),
    "ties": ("dropped", "tie: "),
    "tied_scores": ("noted", "chosen and rejected have the same score"),
    "reversed_scores": ("noted", "rejected has a higher score"),
    "turns_merged": ("repaired", "consecutive turns of one speaker merged"),
}
"""Names in the report -> a counter of the account of loading, and how the reasons in it begin."""

RENAMED = {"special_tokens_kept": "specials_kept", "special_tokens_split": "specials_split"}
"""Names in the report -> what 0.1 called them; the JSON report has both until 0.3."""


@dataclass
class Finding:
    """How often something was found, and the first places."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, place: str, times: int = 1) -> None:
        """Count what was found in one place; nothing where `times` is 0."""
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


class Part(NamedTuple):
    """A stretch of what a row becomes as token ids, decoded, and whether the loss falls on it."""

    text: str
    trained: bool


@dataclass(frozen=True)
class Encoded:
    """A row's token ids as text: the prompt, and each response in parts."""

    prompt: str
    responses: list[list[Part]]

    def to_dict(self) -> dict[str, Any]:
        """The texts as plain values, for JSON."""
        return {"prompt": self.prompt, "responses": [[part._asdict() for part in r] for r in self.responses]}


@dataclass(frozen=True)
class Sample:
    """One row as it is trained on: where it stands, its columns of text, and what they become as token ids."""

    place: str
    row: dict[str, Any]
    encoded: Encoded | None = None

    def to_dict(self) -> dict[str, Any]:
        """The row as plain values, for JSON."""
        return {"place": self.place, **self.row, "encoded": self.encoded and self.encoded.to_dict()}


@dataclass
class FileReport:
    """What one file holds, and what was found in it.

    Args:
        load: the account of reading it.
        kind: what a row holds: "pair", "list", "unpaired", "sft" or "prompt".
        fields: the columns of its format, in words.
        findings: by name; those that do not concern this kind of row are left out.
        sample: the first row that can be trained on.
        user_turns: how many prompts of bare text became user turns.
        labels: of unpaired rows, how many answers are "good" and how many "bad".
        length: of pairs.
    """

    load: LoadReport
    kind: str
    fields: str
    findings: dict[str, Finding]
    sample: Sample | None = None
    user_turns: int = 0
    labels: dict[str, int] | None = None
    length: LengthBias | None = None

    @property
    def errors(self) -> Counter[str]:
        """How many rows are faulty, by what is wrong with them."""
        found = {name: finding.count for name, finding in self.findings.items() if name in ERRORS}
        return +Counter({"dropped": self.load.dropped.total(), **found})

    @property
    def to_look_at(self) -> list[str]:
        """What is no error, but should be looked at: reasons of the account, and names of findings."""
        names = (name for name, finding in self.findings.items() if finding.count and name not in ERRORS | REMARKS)
        return [*self.load.repaired, *self.load.noted, *names]

    def counts(self) -> dict[str, int]:
        """What the account of loading counts under names of their own."""
        return {
            name: sum(count for reason, count in getattr(self.load, counter).items() if reason.startswith(start))
            for name, (counter, start) in NAMED.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        findings = {name: vars(finding) for name, finding in self.findings.items()}
        findings |= {old: findings[name] for name, old in RENAMED.items() if name in findings}
        return {
            **self.load.to_dict(),
            "kind": self.kind,
            "fields": self.fields,
            "sample": self.sample and self.sample.to_dict(),
            **self.counts(),
            **findings,
            "user_turns": self.user_turns,
            "labels": self.labels,
            "length": vars(self.length) if self.length else None,
            "errors": dict(self.errors),
            "to_look_at": self.to_look_at,
        }


@dataclass
class Report:
    """What was found in all files, and between them."""

    files: list[FileReport]
    shared: dict[tuple[str, str], Finding]

    @property
    def errors(self) -> Counter[str]:
        """How many rows of all files are faulty, by what is wrong with them."""
        return sum((file.errors for file in self.files), Counter[str]())

    @property
    def to_look_at(self) -> int:
        """How many things should be looked at, shared prompts among them."""
        shared = sum(finding.count > 0 for finding in self.shared.values())
        return sum(len(file.to_look_at) for file in self.files) + shared

    @property
    def exit_code(self) -> int:
        """1 where a row was dropped or is faulty, else 0."""
        return FAULTY if self.errors else CLEAN

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        shared = [{"files": list(names), **vars(finding)} for names, finding in self.shared.items()]
        return {
            "exit_code": self.exit_code,
            "errors": self.errors.total(),
            "to_look_at": self.to_look_at,
            "files": [file.to_dict() for file in self.files],
            "shared_prompts": shared,
        }

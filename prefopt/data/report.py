"""The account of a load: how many rows were kept, repaired and dropped, why and where, and which columns are unread."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .adapters.columns import peek
from .records import DataError
from .telling import tells

EXAMPLES_PER_REASON = 3


@dataclass
class LoadReport:
    """Counts by reason, with the first few places of each. A strict report turns the first drop into an error."""

    source: str
    strict: bool = False
    adapter: str = ""
    kept: int = 0
    repaired: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    telling: set[str] = field(default_factory=set)  # those unread columns that may say something of their rows
    examples: dict[str, list[str]] = field(default_factory=dict)
    other_splits: dict[str, None] = field(default_factory=dict)  # of the same source, by their names, in order

    def drop(self, reason: str, origin: str, detail: str = "") -> None:
        """Count a row (or a part of a file) that cannot be used."""
        place = f"{origin} ({detail})" if detail else origin
        if self.strict:
            raise DataError(f"{place}: {reason}. Mend or remove it, or load without strict to count it and go on.")
        self.dropped[reason] += 1
        self._remember(reason, place)

    def repair(self, reason: str, origin: str) -> None:
        """Count a row that is kept, but not as it came."""
        self.repaired[reason] += 1
        self._remember(reason, origin)

    def note(self, what: str, origin: str) -> None:
        """Count a row that is kept as it came, though something about it is odd."""
        self.noted[what] += 1
        self._remember(what, origin)

    def leave_out(self, row: Mapping[str, Any], names: Iterable[str], expected: Collection[str] = ()) -> None:
        """Count columns of a row that nobody reads.

        Args:
            expected: columns that are known not to be read, so that nobody need be warned of them.
        """
        for name in names:
            self.unread[name] += 1
            if name not in self.telling and name not in expected and tells(name, peek(row, name)):
                self.telling.add(name)

    @property
    def warning(self) -> str:
        """A line about the unread columns that may say something; empty where there are none."""
        found = self._unread(lambda name: name in self.telling)
        return f"columns that are not read, and seem to say something: {found}" if found else ""

    @property
    def remark(self) -> str:
        """A line about the other unread columns; empty where there are none."""
        found = self._unread(lambda name: name not in self.telling)
        return f"columns that are not read: {found}" if found else ""

    def _unread(self, wanted: Callable[[str], bool]) -> str:
        return ", ".join(f"{name} ({count:,})" for name, count in self.unread.most_common() if wanted(name))

    def _remember(self, reason: str, place: str) -> None:
        places = self.examples.setdefault(reason, [])
        if len(places) < EXAMPLES_PER_REASON:
            places.append(place)

    @property
    def needs_attention(self) -> bool:
        """Whether a person should look at the account: a row was dropped, mended or odd."""
        return bool(self.dropped or self.repaired or self.noted)

    @property
    def rows(self) -> int:
        """How many rows the source held, usable or not."""
        return self.kept + self.dropped.total()

    def lines(self) -> list[str]:
        """The account, one readable line per reason."""
        lines = [f"{self.source}: {self.rows:,} rows read as {self.adapter or 'nothing known'}, {self.kept:,} kept"]
        for word, counter in (("repaired", self.repaired), ("dropped", self.dropped), ("noted", self.noted)):
            lines += [f"{word} {n:,}: {why} ({', '.join(self.examples[why])})" for why, n in counter.most_common()]
        if self.other_splits:
            lines.append(f"other splits there, which are not read: {', '.join(self.other_splits)}")
        lines += filter(None, (self.warning, self.remark))
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The account as plain values, for JSON."""
        counts = {
            "repaired": self.repaired,
            "dropped": self.dropped,
            "noted": self.noted,
            "unread_columns": self.unread,
        }
        return {
            "source": self.source,
            "adapter": self.adapter,
            "rows": self.rows,
            "kept": self.kept,
            **{name: dict(counter) for name, counter in counts.items()},
            "unread_and_telling": sorted(self.telling),
            "examples": self.examples,
            "other_splits": list(self.other_splits),
        }


def odd_scores(scores: Sequence[float] | None) -> str | None:
    """What is odd about the scores of a pair, the chosen one's first."""
    if scores is None or not scores[0] <= scores[1]:
        return None
    return (
        "chosen and rejected have the same score"
        if scores[0] == scores[1]
        else "rejected has a higher score than chosen"
    )

"""The account of a load: how many rows were kept, repaired and dropped, why and where, and which columns are unread."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .records import DataError

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
        if self.unread:
            names = ", ".join(f"{name} ({count:,})" for name, count in self.unread.most_common())
            lines.append(f"columns that are not read: {names}")
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
            "examples": self.examples,
            "other_splits": list(self.other_splits),
        }

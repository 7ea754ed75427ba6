"""The account of a load: how many rows were kept, repaired and dropped, for which reasons, and where they stand."""

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
    examples: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What else there is to know about the source, such as files beside those that were read."""

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

    def note(self, what: str) -> None:
        """Say something that is about no single row."""
        self.notes.append(what)

    def _remember(self, reason: str, place: str) -> None:
        places = self.examples.setdefault(reason, [])
        if len(places) < EXAMPLES_PER_REASON:
            places.append(place)

    @property
    def rows(self) -> int:
        """How many rows the source held, usable or not."""
        return self.kept + self.dropped.total()

    def lines(self) -> list[str]:
        """The account, one readable line per reason."""
        lines = [f"{self.source}: {self.rows:,} rows read as {self.adapter or 'nothing known'}, {self.kept:,} kept"]
        for word, counter in (("repaired", self.repaired), ("dropped", self.dropped)):
            lines += [f"{word} {n:,}: {why} ({', '.join(self.examples[why])})" for why, n in counter.most_common()]
        return [*lines, *self.notes]

    def to_dict(self) -> dict[str, Any]:
        """The account as plain values, for JSON."""
        counts = {"repaired": dict(self.repaired), "dropped": dict(self.dropped), "examples": self.examples}
        about = {"source": self.source, "adapter": self.adapter, "rows": self.rows, "kept": self.kept}
        return {**about, **counts, "notes": self.notes}

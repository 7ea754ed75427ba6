"""What a migration comes to: the new text, and notes on lines of the old one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Note:
    """Something to know of a line.

    Args:
        line: of the old text, from 1.
        text: what was changed, or what to change.
        by_hand: it has to be changed by hand, or the result does something else.
    """

    line: int
    text: str
    by_hand: bool = False


@dataclass(frozen=True)
class Migrated:
    """The new text with its notes, in the order of their lines."""

    text: str
    notes: tuple[Note, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is left to do by hand."""
        return not any(note.by_hand for note in self.notes)

"""What reading gives: rows, each with the place where it stands; and the names that splits usually have."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from ..records import kind_of
from ..report import LoadReport

Row: TypeAlias = dict[str, Any]
Located: TypeAlias = tuple[str, Row]

SPLITS = ("train", "test", "validation", "valid", "val", "eval", "dev")


def has_word(text: str, word: str) -> bool:
    """Whether a name holds a word that no letter or digit touches: "train" is one of "data/train_sft-00001"."""
    return re.search(rf"(?<![a-z0-9]){re.escape(word.lower())}(?![a-z0-9])", text.lower()) is not None


def names_split(text: str) -> bool:
    """Whether a name says which split it is of."""
    return any(has_word(text, split) for split in SPLITS)


def objects(items: Iterable[Any], place: str, report: LoadReport, first: int = 1) -> Iterator[Located]:
    """Yield those items that are objects, each with its number; count the others as dropped.

    Args:
        place: what the items stand in, and what one is called: "file.json:item".
        first: the number of the first item.
    """
    for number, row in enumerate(items, first):
        if isinstance(row, dict):
            yield f"{place} {number}", row
        else:
            report.drop(f"row is {kind_of(row)}, expected an object", f"{place} {number}")

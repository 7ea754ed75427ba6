"""What reading gives: rows, each with the place where it stands; and the names that splits usually have."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from ..records import kind_of
from ..report import LoadReport

Row: TypeAlias = dict[str, Any]
Located: TypeAlias = tuple[str, Row]

SAME_SPLIT = (
    ("train", "training", "trainset", "训练", "訓練"),
    ("test", "testing", "testset", "测试", "測試"),
    ("validation", "valid", "val", "validset", "验证", "驗證"),
)
"""Words that name one and the same split; where there is no split of one of them, those of the others serve."""
SPLITS = (
    *(word for words in SAME_SPLIT for word in words),
    *("eval", "evaluation", "dev", "devset", "holdout", "heldout", "held_out", "held-out", "评估", "評估"),
)
"""Words in the names of splits."""


def has_word(text: str, word: str) -> bool:
    """Whether a name holds a word that no letter or digit touches: "train" is one of "data/train_sft-00001"."""
    return re.search(rf"(?<![a-z0-9]){re.escape(word.lower())}(?![a-z0-9])", text.lower()) is not None


def names_split(text: str) -> bool:
    """Whether a name says which split it is of."""
    return any(has_word(text, split) for split in SPLITS)


def is_of(name: str, split: str) -> bool:
    """Whether a name has the word of a split, or another word for the same: "训练集" is of the split "train"."""
    words = next((words for words in SAME_SPLIT if split.lower() in words), (split,))
    return any(has_word(name, word) for word in words)


def named_split(names: Iterable[str], split: str) -> str | None:
    """The one of several splits that is meant: that of this name, or the only one whose name says the same."""
    names = list(names)
    if split in names:
        return split
    meant = [name for name in names if name.lower() in _others(split)]
    return meant[0] if len(meant) == 1 else None


def _others(split: str) -> set[str]:
    """What a split may be called otherwise, as a whole name."""
    words = next((words for words in SAME_SPLIT if split.lower() in words), (split.lower(),))
    return {f"{word}{end}" for word in words for end in ("", "集")}


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

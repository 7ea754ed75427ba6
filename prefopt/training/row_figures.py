"""What encoded rows show before anything is trained on them: equal pairs, lost ends, and cues that tell pairs apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from datasets import Dataset

from ..objectives.base import Objective

LOOKED_AT = 2000
"""Rows, evenly spread over the dataset: of as many a share is known within two hundredths."""
ENDING = 3
"""Of a response's last ids one is its stop token: some templates write a newline after it."""

Ids = Sequence[int]


def row_figures(rows: Any, objective: Objective, tokenizer: Any, stops: Collection[int]) -> dict[str, Any]:
    """Count what can be seen of encoded rows.

    Args:
        rows: the training data.
        stops: ids on which sampling stops.

    Returns:
        Of the rows looked at, `responses` and `without_end`, how many of them have no stop token at their end; of
        pairs also `pairs`, `same`, those of the same ids, `unequal` and `longer`, those of unlike lengths and those
        whose chosen response is the longer one of them, and `told`, `cue`, `cue_in`: how many pairs the best single
        token tells, which, and the side that it stands in. Nothing of rows that are not encoded.
    """
    if not isinstance(rows, Dataset) or "response_ids" not in rows.column_names or not len(rows):
        return {}
    sample: list[list[Ids]] = rows.select(range(0, len(rows), -(-len(rows) // LOOKED_AT)))["response_ids"][:]
    paired = objective.responses == 2 and "label" not in rows.column_names
    ends = [any(token in stops for token in ids[-ENDING:]) for row in sample for ids in (row[:2] if paired else row)]
    figures: dict[str, Any] = {"responses": len(ends), "without_end": len(ends) - sum(ends)}
    return figures | (_pairs([(row[0], row[1]) for row in sample], tokenizer) if paired else {})


def all_the_same(rows: Dataset) -> bool:
    """Whether the two responses of every pair are the same ids."""
    return all(row["response_ids"][0] == row["response_ids"][1] for row in rows.select_columns(["response_ids"]))


def _pairs(pairs: Sequence[tuple[Ids, Ids]], tokenizer: Any) -> dict[str, Any]:
    unequal = [len(chosen) - len(rejected) for chosen, rejected in pairs if len(chosen) != len(rejected)]
    only: dict[str, Counter[int]] = {"chosen": Counter(), "rejected": Counter()}
    for chosen, rejected in pairs:
        only["chosen"].update(set(chosen) - set(rejected))
        only["rejected"].update(set(rejected) - set(chosen))
    # A pair that has the token on the other side is told wrong.
    told = {
        (token, side): count - only[other][token]
        for side, other in (("chosen", "rejected"), ("rejected", "chosen"))
        for token, count in only[side].items()
    }
    (token, side), count = max(told.items(), key=lambda item: item[1], default=((None, ""), 0))
    return {
        "pairs": len(pairs),
        "same": sum(list(chosen) == list(rejected) for chosen, rejected in pairs),
        "unequal": len(unequal),
        "longer": sum(gap > 0 for gap in unequal),
        "told": count,
        "cue": None if token is None else str(tokenizer.decode([token], skip_special_tokens=False)),
        "cue_in": side,
    }

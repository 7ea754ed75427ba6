"""Checks token ids that came with the rows against the model that is to read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .records import DataError

if TYPE_CHECKING:
    from datasets import Dataset


def check_ids(rows: Dataset, vocabulary: int) -> None:
    """Refuse encoded rows with an id that a model has no embedding for.

    Args:
        vocabulary: how many embeddings the model has.

    Raises:
        DataError: there is such a row; the message names the first, and the id.
    """
    for column in ("prompt_ids", "response_ids"):
        if _largest(rows, column) < vocabulary:
            continue
        for number, ids in enumerate(rows[column]):  # of a selection of rows, not all may be among them
            flat = ids if column == "prompt_ids" else [token for answer in ids for token in answer]
            if (token := max(flat, default=0)) >= vocabulary:
                raise DataError(
                    f"row {number}: {column} hold the id {token:,}, and the model's vocabulary ends at "
                    f"{vocabulary - 1:,}: encode the rows with this model's tokenizer"
                )


def _largest(rows: Dataset, column: str) -> int:
    """The largest id of a column, 0 where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = rows.data.column(column)
    while pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        values = pc.list_flatten(values)
    return pc.max(values).as_py() or 0

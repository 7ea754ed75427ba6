"""Tables of responses as a cell leaves them, without a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from prefopt.compare.records import RESPONSES, table


def responses(prompts: Mapping[str, Any], texts: Sequence[str], **columns: Sequence[Any]) -> pd.DataFrame:
    """One response to each prompt; its length is that of its text."""
    rows = [
        {"prompt_key": key, "k": 0, "response": text, "finished": True, "length": len(text), "degenerate": False}
        for key, text in zip(prompts, texts, strict=True)
    ]
    for name, values in columns.items():
        rows = [{**row, name: value} for row, value in zip(rows, values, strict=True)]
    return table(rows, RESPONSES)

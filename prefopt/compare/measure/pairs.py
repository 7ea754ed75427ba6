"""Ranks held-out pairs: which response a policy, by its implicit reward, or a reward model puts first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset

from ...data.batching import split_by_tokens, token_counts
from ...data.records import ANSWER_EXTRAS, DataError
from ...scoring.scorer import Scorer
from ...utils.tensors import masked_sum
from ..records import PAIRS, table
from .responses import TOKENS, token_logps

TIE = 1e-6
"""The share of the compared numbers by which they may differ and still be equal but for rounding: a tie."""


def policy_pairs(policy: Any, theirs: np.ndarray, encoded: Dataset) -> pd.DataFrame:
    """Log-likelihoods, and the margin of log pi / pi_ref, DPO's implicit reward over beta (arXiv:2305.18290).

    Args:
        theirs: `pair_logps` of the reference.
        encoded: rows of two responses, chosen first.
    """
    ours = pair_logps(policy, encoded)
    ratio = ours - theirs
    scale = np.abs(ours).sum(1) + np.abs(theirs).sum(1)
    return _table(ratio[:, 0] - ratio[:, 1], scale, encoded, chosen_logp=ours[:, 0], rejected_logp=ours[:, 1])


def scored_pairs(scorer: Scorer, pairs: Dataset) -> pd.DataFrame:
    """The margin of a reward model's scores.

    Args:
        pairs: rows of text, as `load_preferences` returns them.

    Raises:
        DataError: an answer calls tools, or has a thought, so that it is no text.
    """
    if found := [name for name in ANSWER_EXTRAS if name in pairs.column_names]:
        raise DataError(
            f"pairs whose answers have {' and '.join(found)} are no text to score: leave them out of the held-out rows"
        )
    finished = pairs["finished"] if "finished" in pairs.column_names else [None] * len(pairs)
    ended = [both or [True, True] for both in finished]
    prompts = list(pairs["prompt"])
    scores = [
        np.array(scorer.score(prompts, list(pairs[name]), [bool(both[side]) for both in ended]))
        for side, name in enumerate(("chosen", "rejected"))
    ]
    return _table(scores[0] - scores[1], np.abs(scores[0]) + np.abs(scores[1]), pairs)


def _table(margin: np.ndarray, scale: np.ndarray, rows: Dataset, **more: np.ndarray) -> pd.DataFrame:
    tied = np.abs(margin) <= TIE * scale
    correct = np.where(tied, 0.5, (margin > 0).astype(float))
    grades = rows["grade"] if "grade" in rows.column_names else [""] * len(rows)
    columns = {"margin": margin, "correct": correct, **more}
    return table(
        [
            {"pair": i, "grade": grades[i] or "", **{name: float(values[i]) for name, values in columns.items()}}
            for i in range(len(rows))
        ],
        PAIRS,
    )


def pair_logps(model: Any, encoded: Dataset) -> np.ndarray:
    """The log-prob of each response of each row, summed over its tokens: [N, 2]."""
    totals = np.zeros((len(encoded), 2))
    counts = token_counts(encoded)
    order: Sequence[int] = torch.argsort(counts, descending=True, stable=True).tolist()
    for numbers in split_by_tokens(order, counts, TOKENS):
        logps, mask = token_logps(model, [encoded[number] for number in numbers])
        totals[numbers] = masked_sum(logps, mask).cpu().numpy()
    return totals

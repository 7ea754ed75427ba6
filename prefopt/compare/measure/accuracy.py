"""How often reward models rank held-out pairs right, by a column of the rows: RewardBench's question, of any file.

RewardBench (Lambert et al. 2024, arXiv:2403.13787) has `prompt`, `chosen`, `rejected` and `subset`, by which accuracies
are shown; its summary is a mean over categories, so that a large one does not decide alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from ...data.loading import load
from ...data.reading import read_rows
from ...data.records import DataError
from ...data.report import LoadReport
from ...scoring.scorer import Scorer
from ...utils.names import hint
from ..statistics import holm_named, mcnemar
from .pairs import scored_pairs

ACCURACY_LEVEL = 0.95


@dataclass(frozen=True)
class Accuracy:
    """The share of pairs whose chosen response has the higher score, a tie a half, with Wilson's interval.

    Args:
        ties: pairs whose scores are equal. The interval's lower end counts them as wrong, its upper as right.
    """

    pairs: int
    ties: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class RewardAccuracies:
    """
    Args:
        by: the column that categories are from; None of all rows together.
        categories: model -> category -> accuracy.
        whole: model -> accuracy over all pairs.
        balanced: model -> the mean of its categories' accuracies.
        p: model -> exact McNemar against the first model on pairs that neither ties, Holm-corrected over models.
    """

    by: str | None
    categories: Mapping[str, Mapping[str, Accuracy]]
    whole: Mapping[str, Accuracy]
    balanced: Mapping[str, float]
    p: Mapping[str, float]

    def plain(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return asdict(self)


def accuracy(correct: Sequence[float] | np.ndarray) -> Accuracy:
    """Of pairs that are right (1), tied (.5) or wrong (0).

    Raises:
        ValueError: there are none.
    """
    values = np.asarray(correct, dtype=np.float64)
    if not len(values):
        raise ValueError("accuracy: no pairs are given")
    right, ties, count = int((values == 1).sum()), int((values == 0.5).sum()), len(values)
    low, high = (
        stats.binomtest(hits, count).proportion_ci(ACCURACY_LEVEL, method="wilson") for hits in (right, right + ties)
    )
    return Accuracy(count, ties, float(values.mean()), float(low.low), float(high.high))


def by_category(source: Any, by: str | None, **reading: Any) -> dict[str, Any]:
    """Category -> preference rows, in the order in which categories first come.

    Args:
        source: as of `load_preferences`.
        by: the column that says a row's category, with dots for what stands within an object; None makes one of all.
        reading: `adapter`, `split` and `columns`, as of `load_preferences`.

    Raises:
        DataError: a row has no such column, or no row can be read.
    """
    if by is None:
        return {"": load(source, "preferences", **reading)[0]}
    rows: dict[str, list[dict[str, Any]]] = {}
    for origin, row in read_rows(source, reading.get("split", "train"), LoadReport(str(source))):
        rows.setdefault(_category(row, by, origin), []).append({k: v for k, v in row.items() if k != by})
    return {category: load(group, "preferences", **reading)[0] for category, group in rows.items()}


def _category(row: Mapping[str, Any], by: str, origin: str) -> str:
    value: Any = row
    for part in [by] if by in row else by.split("."):
        if not isinstance(value, Mapping) or value.get(part) is None:
            raise DataError(f"{origin}: there is no {by!r} to say the category by{hint(by, list(row))}")
        value = value[part]
    return str(value)


def reward_accuracies(
    scorers: Iterable[tuple[str, Scorer]], rows: Mapping[str, Any], by: str | None
) -> RewardAccuracies:
    """Rank every category's pairs by every scorer, one scorer after the other.

    Args:
        scorers: name and scorer, each made when its turn comes: two large ones need not be in memory together.
        rows: category -> preference rows.
    """
    correct: dict[str, dict[str, np.ndarray]] = {}
    for name, scorer in scorers:
        correct[name] = {
            category: scored_pairs(scorer, table)["correct"].to_numpy() for category, table in rows.items()
        }
    together = {name: np.concatenate(list(each.values())) for name, each in correct.items()}
    first, *others = together
    p = {name: _p(together[name], together[first]) for name in others}
    return RewardAccuracies(
        by,
        {name: {category: accuracy(values) for category, values in each.items()} for name, each in correct.items()},
        {name: accuracy(values) for name, values in together.items()},
        {name: float(np.mean([values.mean() for values in each.values()])) for name, each in correct.items()},
        holm_named(p),
    )


def _p(ours: np.ndarray, theirs: np.ndarray) -> float:
    decided = (ours != 0.5) & (theirs != 0.5)
    return mcnemar(ours[decided], theirs[decided]).p if decided.any() else 1.0

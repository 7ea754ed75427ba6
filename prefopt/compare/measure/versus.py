"""A method's responses against the baseline's, prompt by prompt: by scores, or by somebody who is shown both.

Knows tables of responses and judgements; neither what a judge is called in a plan nor what is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from ...data.records import Messages
from ...scoring.load import scorer_from
from ...scoring.reward_model import RewardModelScorer
from ...scoring.scorer import Scorer, checked
from ...utils.fingerprint import fingerprint_of_values
from ..records import JUDGEMENTS, table
from ..statistics.wins import LOSS, TIE, WIN, both_orders
from .asked import Asked, as_far_as_it_goes
from .verdict import Question

COLUMNS = {"score": "reward-model", "gold": "gold"}
Prompts = Mapping[str, Messages]


class PairJudge(Protocol):
    """Says of each prompt whose response is better.

    `kind` is one of `report.findings.Judge`; `fingerprint` (hex digits) is the same exactly when judgements are.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def judge(self, prompts: Prompts, ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
        """A method against the baseline, by the first response (k = 0) of each to every prompt.

        Args:
            prompts: key -> turns.
            ours, theirs: tables with the columns of `records.RESPONSES`, of the same prompts.

        Returns:
            a table with the columns of `records.JUDGEMENTS`, in the order of `ours`.

        Raises:
            ValueError: tables of other prompts. A judge that fails is no error: its row says why.
        """
        ...


@dataclass(frozen=True)
class ColumnJudge:
    """Compares what is known of the responses already: "score", by the reward model of the seed, or "gold".

    Args:
        tolerance: a tie is no more apart than that.
    """

    column: str
    tolerance: float = 0.0
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.column)

    @property
    def kind(self) -> str:
        return COLUMNS[self.column]

    @property
    def fingerprint(self) -> str:
        return fingerprint_of_values([self.column, self.tolerance])

    def judge(self, prompts: Prompts, ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
        pairs = matched(prompts, ours, theirs)
        first, second = (_known(pairs[f"{self.column}_{side}"], self.column) for side in ("ours", "theirs"))
        return _by_scores(pairs, first, second, self.tolerance)


@dataclass(frozen=True)
class ScorerJudge:
    """Compares scores that it asks for itself; no response is scored twice.

    Args:
        source: whatever `scorer_from` takes. A reward model is loaded when it is first needed.
        tolerance: a tie is no more apart than that.
    """

    source: Any
    tolerance: float = 0.0
    name: str = ""
    _scores: dict[tuple[str, str, bool], float] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        named = Path(self.source).name if isinstance(self.source, str | Path) else self.scorer.name
        object.__setattr__(self, "name", self.name or named)

    @cached_property
    def scorer(self) -> Scorer:
        return scorer_from(self.source)

    @property
    def kind(self) -> str:
        model = isinstance(self.source, str | Path) or isinstance(self.scorer, RewardModelScorer)
        return "reward-model" if model else "function"

    @property
    def fingerprint(self) -> str:
        return fingerprint_of_values([self.scorer.fingerprint, self.tolerance])

    def judge(self, prompts: Prompts, ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
        pairs = matched(prompts, ours, theirs)
        first, second = (self._scored(prompts, pairs, side) for side in ("ours", "theirs"))
        return _by_scores(pairs, first, second, self.tolerance)

    def _scored(self, prompts: Prompts, pairs: pd.DataFrame, side: str) -> Asked:
        columns = (pairs["prompt_key"], pairs[f"response_{side}"], pairs[f"finished_{side}"])
        rows = [(str(key), str(text), bool(ended)) for key, text, ended in zip(*columns, strict=True)]
        missing = [row for row in dict.fromkeys(rows) if row not in self._scores]

        def score(numbers: Sequence[int]) -> list[float]:
            asked = [missing[number] for number in numbers]
            texts, ended = [row[1] for row in asked], [row[2] for row in asked]
            turns = [prompts[row[0]] for row in asked]
            return checked(self.name, self.scorer.score(turns, texts, ended), turns, texts)

        found = as_far_as_it_goes(score, len(missing), self.name)
        wrong = {row: error for row, error in zip(missing, found.errors, strict=True) if error}
        self._scores.update((row, v) for row, v in zip(missing, found.values, strict=True) if row not in wrong)
        return Asked([self._scores.get(row, math.nan) for row in rows], [wrong.get(row, "") for row in rows])


@dataclass(frozen=True)
class OrdersJudge:
    """Shows every pair in both orders to somebody who says which is better; where the orders disagree, it is a tie.

    Args:
        ask: of each question, whether the first response is better.
    """

    name: str
    kind: str
    fingerprint: str
    ask: Callable[[Sequence[Question]], Asked]

    def judge(self, prompts: Prompts, ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
        pairs = matched(prompts, ours, theirs)
        rows = list(zip(pairs["prompt_key"], pairs["response_ours"], pairs["response_theirs"], strict=True))
        ahead = [Question(prompts[key], mine, other) for key, mine, other in rows]
        behind = [Question(prompts[key], other, mine) for key, mine, other in rows]
        values, errors = self.ask([*ahead, *behind])
        n = len(rows)
        shown_first, shown_second = np.array(values[:n]), WIN - np.array(values[n:])
        outcome, there = np.full(n, np.nan), np.isfinite(shown_first + shown_second)
        if there.any():
            outcome[there] = both_orders(shown_first[there], shown_second[there]).outcomes
        orders = {"shown_first": shown_first, "shown_second": shown_second}
        return _judgements(
            pairs, outcome, [_both(*each) for each in zip(errors[:n], errors[n:], strict=True)], **orders
        )


def matched(prompts: Prompts, ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """One row for each prompt, with the first response of either side: "response_ours", "response_theirs", ...

    Raises:
        ValueError: the sides were asked other prompts, or some twice, or there is none.
    """
    sides = [side[side["k"] == 0] for side in (ours, theirs)]
    keys = [list(side["prompt_key"]) for side in sides]
    if sorted(keys[0]) != sorted(keys[1]) or len(set(keys[0])) != len(keys[0]) or not keys[0]:
        odd = sorted(set(keys[0]) ^ set(keys[1]))[:3]
        raise ValueError(
            f"{len(keys[0])} responses of the method and {len(keys[1])} of the baseline with k = 0: give one to each "
            f"of the same prompts{f'; not on both sides are {odd}' if odd else ''}"
        )
    if strange := [key for key in keys[0] if key not in prompts]:
        raise ValueError(f"there are responses to {strange[0]!r}, which is not among the {len(prompts)} prompts")
    return sides[0].merge(sides[1], on="prompt_key", how="left", suffixes=("_ours", "_theirs"))


def _by_scores(pairs: pd.DataFrame, first: Asked, second: Asked, tolerance: float) -> pd.DataFrame:
    ahead = np.array(first.values) - np.array(second.values)
    outcome = np.where(np.abs(ahead) <= tolerance, TIE, np.where(ahead > 0, WIN, LOSS))
    errors = [_both(*each, "the method's", "the baseline's") for each in zip(first.errors, second.errors, strict=True)]
    return _judgements(pairs, np.where(np.isfinite(ahead), outcome, np.nan), errors)


def _known(values: pd.Series, column: str) -> Asked:
    numbers = [float(value) for value in values]
    return Asked(numbers, ["" if math.isfinite(number) else f"no {column} is known" for number in numbers])


def _both(first: str, second: str, one: str = "shown first", other: str = "shown second") -> str:
    """What went wrong on either side, once if it is the same."""
    if first == second:
        return first
    return "; ".join(f"{where}: {error}" for where, error in ((one, first), (other, second)) if error)


def _judgements(pairs: pd.DataFrame, outcome: np.ndarray, errors: Sequence[str], **orders: np.ndarray) -> pd.DataFrame:
    columns = {
        "prompt_key": pairs["prompt_key"].tolist(),
        "outcome": outcome.tolist(),
        "longer_by": (pairs["length_ours"] - pairs["length_theirs"]).tolist(),
        "error": list(errors),
        **{name: values.tolist() for name, values in orders.items()},
    }
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return table(rows, JUDGEMENTS)


def verdicts(function: Callable[..., Any], name: str, questions: Sequence[Question]) -> Asked:
    """The verdicts of a Python function of (prompts, first, second)."""

    def say(numbers: Sequence[int]) -> list[float]:
        prompts, first, second = (list(part) for part in zip(*(questions[i] for i in numbers), strict=True))
        said = [float(value) for value in function(prompts, first, second)]
        if len(said) != len(numbers) or not set(said) <= {WIN, TIE, LOSS}:
            strange = sorted({value for value in said} - {WIN, TIE, LOSS})[:3]
            wrong = f"{strange} among them" if strange else f"{len(said)} verdicts"
            raise ValueError(f"{wrong} for {len(numbers)} pairs: give a list of 1 (the first), 1/2 or 0 for each")
        return said

    return as_far_as_it_goes(say, len(questions), name)

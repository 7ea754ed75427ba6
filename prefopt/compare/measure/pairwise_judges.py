"""The judges: each compares a method's responses with the baseline's, prompt by prompt, by scores or by seeing both."""

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
from ...scoring.http import HTTPScorer
from ...scoring.load import scorer_from
from ...scoring.reward_model import RewardModelScorer
from ...scoring.scorer import Scorer, checked
from ...utils.fingerprint import fingerprint_of_values
from ..records import JUDGEMENTS, table
from ..statistics import LOSS, TIE, WIN, both_orders
from .judge_prompt import Question
from .row_results import RowResults, evaluate_rows

COLUMNS = {"score": "reward-model", "gold": "gold"}
Prompts = Mapping[str, Messages]


class PairJudge(Protocol):
    """Decides for each prompt whose response is better.

    `kind` is one of `report.findings.Judge`; `fingerprint` (hex digits) is the same exactly when judgements are.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def judge(self, prompts: Prompts, ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
        """Compare a method with the baseline, by the first response (k = 0) of each to every prompt.

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
    """Compares a column of the responses' table: "score", of the seed's reward model, or "gold".

    Args:
        tolerance: values that differ by no more are a tie.
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
    """Compares scores that a scorer of its own gives; no response is scored twice.

    Args:
        source: whatever `scorer_from` takes. A reward model is loaded when it is first needed.
        tolerance: scores that differ by no more are a tie.
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
        model = isinstance(self.source, str | Path) or isinstance(self.scorer, RewardModelScorer | HTTPScorer)
        return "reward-model" if model else "function"

    @property
    def fingerprint(self) -> str:
        return fingerprint_of_values([self.scorer.fingerprint, self.tolerance])

    def judge(self, prompts: Prompts, ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
        pairs = matched(prompts, ours, theirs)
        first, second = (self._scored(prompts, pairs, side) for side in ("ours", "theirs"))
        return _by_scores(pairs, first, second, self.tolerance)

    def _scored(self, prompts: Prompts, pairs: pd.DataFrame, side: str) -> RowResults:
        columns = (pairs["prompt_key"], pairs[f"response_{side}"], pairs[f"finished_{side}"])
        rows = [(str(key), str(text), bool(ended)) for key, text, ended in zip(*columns, strict=True)]
        missing = [row for row in dict.fromkeys(rows) if row not in self._scores]

        def score(numbers: Sequence[int]) -> list[float]:
            batch = [missing[number] for number in numbers]
            texts, ended = [row[1] for row in batch], [row[2] for row in batch]
            turns = [prompts[row[0]] for row in batch]
            return checked(self.name, self.scorer.score(turns, texts, ended), turns, texts)

        scores = evaluate_rows(score, len(missing), self.name)
        failed = {row: error for row, error in zip(missing, scores.errors, strict=True) if error}
        self._scores.update((row, v) for row, v in zip(missing, scores.values, strict=True) if row not in failed)
        return RowResults([self._scores.get(row, math.nan) for row in rows], [failed.get(row, "") for row in rows])


@dataclass(frozen=True)
class OrdersJudge:
    """Shows every pair in both orders to a function or a language model; where the orders disagree, it is a tie.

    Args:
        ask: says of each question whether the first response is better.
    """

    name: str
    kind: str
    fingerprint: str
    ask: Callable[[Sequence[Question]], RowResults]

    def judge(self, prompts: Prompts, ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
        pairs = matched(prompts, ours, theirs)
        rows = list(zip(pairs["prompt_key"], pairs["response_ours"], pairs["response_theirs"], strict=True))
        method_first = [Question(prompts[key], ours, theirs) for key, ours, theirs in rows]
        method_second = [Question(prompts[key], theirs, ours) for key, ours, theirs in rows]
        values, errors = self.ask([*method_first, *method_second])
        n = len(rows)
        shown_first, shown_second = np.array(values[:n]), WIN - np.array(values[n:])
        outcome, answered = np.full(n, np.nan), np.isfinite(shown_first + shown_second)
        if answered.any():
            outcome[answered] = both_orders(shown_first[answered], shown_second[answered]).outcomes
        orders = {"shown_first": shown_first, "shown_second": shown_second}
        messages = [_both(*two) for two in zip(errors[:n], errors[n:], strict=True)]
        return _judgements(pairs, outcome, messages, **orders)


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


def _by_scores(pairs: pd.DataFrame, first: RowResults, second: RowResults, tolerance: float) -> pd.DataFrame:
    ahead = np.array(first.values) - np.array(second.values)
    outcome = np.where(np.abs(ahead) <= tolerance, TIE, np.where(ahead > 0, WIN, LOSS))
    errors = [_both(*two, "the method's", "the baseline's") for two in zip(first.errors, second.errors, strict=True)]
    return _judgements(pairs, np.where(np.isfinite(ahead), outcome, np.nan), errors)


def _known(values: pd.Series, column: str) -> RowResults:
    numbers = [float(value) for value in values]
    return RowResults(numbers, ["" if math.isfinite(number) else f"no {column} is known" for number in numbers])


def _both(first: str, second: str, first_side: str = "shown first", second_side: str = "shown second") -> str:
    """The error of either side, once if both are the same."""
    if first == second:
        return first
    return "; ".join(f"{side}: {error}" for side, error in ((first_side, first), (second_side, second)) if error)


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


def verdicts(function: Callable[..., Any], name: str, questions: Sequence[Question]) -> RowResults:
    """The verdicts of a Python function of (prompts, first, second), which gives 1, 1/2 or 0 for the first response."""

    def decide(numbers: Sequence[int]) -> list[float]:
        prompts, first, second = (list(part) for part in zip(*(questions[i] for i in numbers), strict=True))
        outcomes = [float(value) for value in function(prompts, first, second)]
        if len(outcomes) != len(numbers) or not set(outcomes) <= {WIN, TIE, LOSS}:
            strange = sorted(set(outcomes) - {WIN, TIE, LOSS})[:3]
            wrong = f"{strange} among them" if strange else f"{len(outcomes)} verdicts"
            raise ValueError(f"{wrong} for {len(numbers)} pairs: give a list of 1 (the first), 1/2 or 0 for each")
        return outcomes

    return evaluate_rows(decide, len(questions), name)

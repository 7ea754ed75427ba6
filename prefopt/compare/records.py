"""The per-example results of a comparison's cells: their tables, as parquet files, and the columns of these.

A cell is one method with one seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..utils import files

RESPONSES = {
    "prompt_key": "str",  # `rollout.prompt_key`, one row for each prompt and k, in the order of the test prompts
    "k": "int64",  # which of the responses to this prompt, from 0
    "response": "str",
    "finished": "bool",  # it ended by itself
    "length": "int64",  # tokens
    "score": "float64",  # by the reward model of the seed; NaN without one
    "gold": "float64",  # the gold reward of the synthetic task; NaN where it is not known
    "kl": "float64",  # log pi - log pi_ref of the response (k1); of best-of-n the bound log n - (n - 1) / n
    "kl_k2": "float64",  # (log-ratio)^2 / 2: biased, of the shape of a square; NaN of best-of-n
    "kl_k3": "float64",  # sum over tokens of r - 1 - log r with r = pi_ref / pi; NaN of best-of-n
    "perplexity": "float64",  # per token under the reference; NaN of an empty response
    "degenerate": "bool",
}
PAIRS = {
    "pair": "int64",  # its number among the held-out pairs
    "grade": "str",  # how much better the chosen one is, in the dataset's word; "" without one
    "chosen_logp": "float64",  # of the response, summed over tokens; NaN of a reward model
    "rejected_logp": "float64",
    "margin": "float64",  # log-ratio to the reference (or reward model's score) of chosen less rejected
    "correct": "float64",  # 1 the chosen one is ahead, .5 a tie, 0 not
}
CHOICES = {
    "file": "str",
    "question": "int64",
    "picked": "int64",  # the option with the highest log-likelihood
    "answer": "int64",
    "correct": "float64",  # 1 or 0
}
JUDGEMENTS = {
    "prompt_key": "str",
    "outcome": "float64",  # for the method against the baseline: 1 won, .5 tie, 0 lost; NaN where the judge failed
    "shown_first": "float64",  # the same with the method's response first, and second; NaN of a judge by scores
    "shown_second": "float64",
    "longer_by": "float64",  # tokens of the method's response less the baseline's
    "error": "str",  # why the judge failed; "" otherwise
}
TABLES = {"responses": RESPONSES, "pairs": PAIRS, "choices": CHOICES}


@dataclass(frozen=True)
class Cell:
    """One method with one seed, done.

    Args:
        name: what the plan calls the method.
        method: a name that `objectives.load` knows, "sft", "best-of-n" or "reward-model".
        settings: of the plan, and what a grid chose.
        cost: the fields of `report.findings.Cost`; `shared` names stages and their FLOPs.
        responses, pairs, choices: tables with the columns above; None where the cell has none.
        judgements: judge's name -> table.
        curve: fields of `report.findings.Moment`, but method and seed.
        trials: how many settings were tried.
    """

    name: str
    method: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    responses: pd.DataFrame | None = None
    pairs: pd.DataFrame | None = None
    choices: pd.DataFrame | None = None
    judgements: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    curve: Sequence[Mapping[str, Any]] = ()
    trials: int = 1


@dataclass(frozen=True)
class Experiment:
    """All that a report is made of.

    Args:
        baseline: name of the method that the others are held against.
        names: of all methods, in the plan's order, the baseline first.
        seeds: planned.
        prompts: the test prompts, in the order of the tables: key -> turns.
        cells: those that are done. Reward models, one for each seed, are among them ("reward-model") with `pairs` only.
        judges: name -> kind, see `report.findings.Judge`.
        notes: warnings known before any number is: fields of `report.findings.Warning`.
        failures: fields of `report.findings.Failure`.
        provenance: see `report.findings.Findings`.
        primary: the metric to decide by; None for gold where it is known, else the score.
    """

    title: str
    baseline: str
    names: Sequence[str]
    seeds: Sequence[int]
    prompts: Mapping[str, Sequence[Mapping[str, str]]]
    cells: Sequence[Cell]
    judges: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[Mapping[str, Any]] = ()
    failures: Sequence[Mapping[str, Any]] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    primary: str | None = None


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """Rows as a table with these columns; what a row lacks is NaN, or "" of a text.

    Raises:
        ValueError: a row has a column that there is not.
    """
    strange = {name for row in rows for name in row} - set(columns)
    if strange:
        raise ValueError(f"columns {sorted(strange)} are not among {', '.join(columns)}")
    empty = {"str": "", "float64": float("nan")}
    given = {name: [row[name] if name in row else empty[kind] for row in rows] for name, kind in columns.items()}
    return pd.DataFrame(given).astype(columns)


def write(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as parquet, whole or not at all."""
    files.replace(path, lambda staged: frame.to_parquet(staged, index=False))


def read(path: Path) -> pd.DataFrame | None:
    """None if there is no such file."""
    return pd.read_parquet(path) if path.is_file() else None

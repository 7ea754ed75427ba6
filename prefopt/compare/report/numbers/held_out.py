"""Computes accuracy on held-out pairs by grade, and on multiple choice."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from prefopt.grades import GRADES

from ...statistics import holm_named, sign_test
from ..findings import Choices, GradeAccuracy
from .means import Means
from .tables import REWARD_MODEL, Data, Table


def grade_accuracies(data: Data, means: Means) -> list[GradeAccuracy]:
    """Strongest grade first where they are Llama 2's, others as they first appear; pairs without one are of grade "".

    Raises:
        ValueError: two cells give a pair different grades.
    """
    grades = _grades(data)
    tables = {name: data.pairs.table(name, "correct") for name in (*data.names, REWARD_MODEL)}
    accuracies = []
    for grade in sorted(pd.unique(grades), key=lambda grade: GRADES.index(grade) if grade in GRADES else len(GRADES)):
        rows = grades == grade
        by = {name: means.share(table.means[:, rows]) for name, table in tables.items() if table is not None}
        accuracies.append(GradeAccuracy(str(grade), int(rows.sum()), by))
    return accuracies


def _grades(data: Data) -> np.ndarray:
    """[pairs]"""
    earlier: np.ndarray | None = None
    for name, by_seed in data.pairs.frames.items():
        for seed, frame in by_seed.items():
            grades = frame["grade"].to_numpy(dtype=object)
            if earlier is not None and (grades != earlier).any():
                pair = data.pairs.rows[np.flatnonzero(grades != earlier)[0]]
                raise ValueError(f"{name} with seed {seed}: pair {pair} has another grade than in other cells")
            earlier = grades
    return np.array([], dtype=object) if earlier is None else earlier


def choices_of(data: Data, means: Means) -> list[Choices]:
    """One for each file, by name. p-values are corrected over all methods and files."""
    if not len(data.choices.rows):
        return []
    files = data.choices.rows.get_level_values(0).to_numpy()
    tables = {name: table for name in data.names if (table := data.choices.table(name, "correct")) is not None}
    p = _p_values(tables, data.experiment.baseline, files)
    return [_file(str(file), files == file, tables, means, p) for file in sorted(set(files))]


def _file(
    file: str, rows: np.ndarray, tables: Mapping[str, Table], means: Means, p: Mapping[tuple[str, str], float]
) -> Choices:
    by = {name: means.share(table.means[:, rows]) for name, table in tables.items()}
    return Choices(file, int(rows.sum()), by, {name: p[file, name] for name in tables if (file, name) in p})


def _p_values(tables: Mapping[str, Table], baseline: str, files: np.ndarray) -> dict[tuple[str, str], float]:
    """McNemar's exact test against the baseline; (file, method) -> p.

    With several seeds a question counts once, for the side that had it right with more of them: answers of several
    seeds to one question are no independent rows. With one seed it is McNemar's test as it stands.
    """
    p = {}
    for name, table in tables.items():
        seeds = table.shared(tables[baseline]) if baseline in tables and name != baseline else ()
        if seeds:
            ahead = np.sign(table.of(seeds).sum(0) - tables[baseline].of(seeds).sum(0))
            for file in sorted(set(files)):
                rows = ahead[files == file]
                p[str(file), name] = sign_test(int((rows > 0).sum()), int((rows < 0).sum()))
    return holm_named(p)

"""Brings the tables of all cells into one order of seeds and rows, so that arrays of them can be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...records import CHOICES, JUDGEMENTS, PAIRS, RESPONSES, Cell, Experiment

REWARD_MODEL = "reward-model"
CHECKPOINT = "checkpoint"
"""What cells are whose models none of the methods that are compared has trained."""


@dataclass(frozen=True)
class Table:
    """One column of one method's tables.

    Args:
        seeds: those with which the column is known.
        values: [seeds, rows, k]: a row is a prompt, a pair or a question; k > 1 of responses alone.
    """

    seeds: tuple[int, ...]
    values: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """[seeds, rows]: all responses to a prompt are sampled alike, so that their mean only has less noise."""
        return self.values.mean(-1)

    def of(self, seeds: Sequence[int]) -> np.ndarray:
        """The means with these seeds: [seeds, rows]."""
        return self.means[[self.seeds.index(seed) for seed in seeds]]

    def shared(self, other: Table) -> tuple[int, ...]:
        return tuple(seed for seed in self.seeds if seed in other.seeds)


@dataclass(frozen=True)
class Grid:
    """One kind of table of all cells, each brought into the same order.

    Args:
        rows: the keys of the rows.
        frames: name -> seed -> table; those of one name have equally many rows to each key.
    """

    rows: pd.Index
    frames: Mapping[str, Mapping[int, pd.DataFrame]]

    def table(self, name: str, column: str, *, holes: bool = False) -> Table | None:
        """None where no cell of this name knows the column.

        Args:
            holes: single values may be NaN, as of a judge that failed.

        Raises:
            ValueError: some values of a cell are no numbers, and others are.
        """
        known = {}
        for seed, frame in self.frames.get(name, {}).items():
            values = frame[column].to_numpy(dtype=np.float64)
            if not np.isnan(values).all():
                if not holes:
                    self._check(values, f"{name} with seed {seed}: {column}")
                known[seed] = values.reshape(len(self.rows), -1)
        return Table(tuple(known), np.stack(list(known.values()))) if known else None

    def _check(self, values: np.ndarray, where: str) -> None:
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            row = self.rows[bad[0] // (len(values) // len(self.rows))]
            raise ValueError(
                f"{where} is {values[bad[0]]} at {row!r}, and no finite number at {len(bad)} of {len(values)} rows in "
                "all: measure that cell again, or leave the whole column NaN where it is not known"
            )


@dataclass(frozen=True)
class Data:
    """An experiment's tables.

    Args:
        names: of methods that have a cell, in the plan's order.
        cells: name -> seed -> cell, in the plan's order of seeds; no reward models.
        pairs: reward models are in it as "reward-model".
        judgements: by judge, in the order given.
    """

    experiment: Experiment
    names: tuple[str, ...]
    cells: Mapping[str, Mapping[int, Cell]]
    responses: Grid
    pairs: Grid
    choices: Grid
    judgements: Mapping[str, Grid]

    def known(self, column: str) -> dict[str, Table]:
        """Of all methods that have this column of responses."""
        tables = {name: self.responses.table(name, column) for name in self.names}
        return {name: table for name, table in tables.items() if table is not None}


def data_of(experiment: Experiment) -> Data:
    """Sort everything by the plan: names, seeds, prompts.

    Raises:
        ValueError: the experiment contradicts itself, or a cell's table lacks rows or has some twice; it names it.
    """
    cells = _cells(experiment)
    named = {key: cells[key] for key in experiment.names if key in cells}
    return Data(
        experiment,
        tuple(named),
        named,
        _responses(experiment, named),
        _grid(cells, lambda cell: cell.pairs, PAIRS, ["pair"]),
        _grid(named, lambda cell: cell.choices, CHOICES, ["file", "question"]),
        {judge: _judged(experiment, named, judge) for judge in experiment.judges},
    )


def _cells(experiment: Experiment) -> dict[str, dict[int, Cell]]:
    """By name, then seed, both in order."""
    _check_plan(experiment)
    cells: dict[tuple[str, int], Cell] = {}
    for cell in experiment.cells:
        _check_cell(experiment, cell)
        key = (REWARD_MODEL if cell.method == REWARD_MODEL else cell.name, cell.seed)
        if key in cells:
            raise ValueError(f"{_named(cell)} is there twice: give each cell once")
        cells[key] = cell
    names = [*experiment.names, *{REWARD_MODEL} - set(experiment.names)]
    ordered = {name: {seed: cells[name, seed] for seed in experiment.seeds if (name, seed) in cells} for name in names}
    return {name: by_seed for name, by_seed in ordered.items() if by_seed}


def _check_plan(experiment: Experiment) -> None:
    if not experiment.prompts:
        raise ValueError("the experiment has no test prompts: nothing can be compared on none")
    if experiment.baseline not in experiment.names:
        raise ValueError(f"baseline={experiment.baseline!r} is not among {', '.join(experiment.names)}")


def _check_cell(experiment: Experiment, cell: Cell) -> None:
    if cell.name not in experiment.names and cell.method != REWARD_MODEL:
        raise ValueError(f"{_named(cell)}: the plan has no such method, but {', '.join(experiment.names)}")
    if cell.seed not in experiment.seeds:
        raise ValueError(f"{_named(cell)}: the plan has the seeds {', '.join(map(str, experiment.seeds))}")
    if strange := sorted(set(cell.judgements) - set(experiment.judges)):
        raise ValueError(f"{_named(cell)} has judgements by {strange}, which are not among the judges")


def _named(cell: Cell) -> str:
    return f"{cell.name} with seed {cell.seed}"


def _responses(experiment: Experiment, cells: Mapping[str, Mapping[int, Cell]]) -> Grid:
    prompts = list(experiment.prompts)
    frames: dict[str, dict[int, pd.DataFrame]] = {}
    for name, by_seed in cells.items():
        for cell in by_seed.values():
            if cell.responses is not None:
                frames.setdefault(name, {})[cell.seed] = _of_responses(cell, cell.responses, prompts)
        counts = {seed: len(frame) // len(prompts) for seed, frame in frames.get(name, {}).items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"{name} has {counts} responses to a prompt, by seed: generate as many with every seed")
    return Grid(pd.Index(prompts), frames)


def _of_responses(cell: Cell, frame: pd.DataFrame, prompts: list[str]) -> pd.DataFrame:
    """By prompt, then k. `nll` is the negative log-likelihood under the reference, 0 of an empty response."""
    _check_columns(cell, frame, RESPONSES)
    count = int(frame["k"].max()) + 1 if len(frame) else 1
    wanted = pd.MultiIndex.from_product([prompts, range(count)])
    ordered = _ordered(cell, frame, ["prompt_key", "k"], wanted)
    length = ordered["length"].to_numpy(dtype=np.float64)
    perplexity = ordered["perplexity"].to_numpy(dtype=np.float64)
    unknown = np.isnan(perplexity).all()
    nll = np.full(len(length), np.nan) if unknown else length * np.log(np.where(length > 0, perplexity, 1.0))
    return ordered.assign(unfinished=~ordered["finished"].astype(bool), nll=nll)


def _judged(experiment: Experiment, cells: Mapping[str, Mapping[int, Cell]], judge: str) -> Grid:
    wanted = pd.Index(list(experiment.prompts))
    return _grid(cells, lambda cell: cell.judgements.get(judge), JUDGEMENTS, ["prompt_key"], wanted)


def _grid(
    cells: Mapping[str, Mapping[int, Cell]],
    table: Callable[[Cell], pd.DataFrame | None],
    columns: Mapping[str, str],
    keys: list[str],
    wanted: pd.Index | None = None,
) -> Grid:
    """Without `wanted`, a row that any cell has is wanted of every one."""
    given = {}
    for name, by_seed in cells.items():
        for seed, cell in by_seed.items():
            if (frame := table(cell)) is not None:
                _check_columns(cell, frame, columns)
                given[name, seed] = cell, frame
    if wanted is None:
        wanted = _all_rows([frame for _, frame in given.values()], keys)
    frames: dict[str, dict[int, pd.DataFrame]] = {}
    for (name, seed), (cell, frame) in given.items():
        frames.setdefault(name, {})[seed] = _ordered(cell, frame, keys, wanted)
    return Grid(wanted, frames)


def _all_rows(frames: list[pd.DataFrame], keys: list[str]) -> pd.Index:
    """Those that any table has, in order."""
    if not frames:
        return pd.Index([])
    return _index(pd.concat([frame[keys] for frame in frames]).drop_duplicates().sort_values(keys), keys)


def _index(frame: pd.DataFrame, keys: list[str]) -> pd.Index:
    return pd.MultiIndex.from_frame(frame[keys]) if len(keys) > 1 else pd.Index(frame[keys[0]])


def _check_columns(cell: Cell, frame: pd.DataFrame, columns: Mapping[str, str]) -> None:
    if missing := [name for name in columns if name not in frame]:
        raise ValueError(f"{_named(cell)}: a table lacks the columns {', '.join(missing)}; see compare/records.py")


def _ordered(cell: Cell, frame: pd.DataFrame, keys: list[str], wanted: pd.Index) -> pd.DataFrame:
    """The rows in the order of `wanted`, each of them there once and nothing else."""
    have = _index(frame, keys)
    if have.has_duplicates:
        raise ValueError(f"{_named(cell)}: {_row(keys, have[have.duplicated()][0])} is there more than once")
    order = have.get_indexer(wanted)
    if (order < 0).any():
        missing = wanted[order < 0]
        raise ValueError(
            f"{_named(cell)}: {_row(keys, missing[0])} is missing ({len(missing)} of {len(wanted)} rows are): "
            "every cell must be measured on the same"
        )
    if len(have) > len(wanted):
        strange = have[~have.isin(wanted)]
        raise ValueError(f"{_named(cell)}: {_row(keys, strange[0])} is none of the experiment's")
    return frame.iloc[order].reset_index(drop=True)


def _row(keys: list[str], row: Any) -> str:
    values = row if isinstance(row, tuple) else (row,)
    return "the row " + ", ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))

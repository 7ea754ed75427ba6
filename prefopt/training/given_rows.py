"""The rows that a trainer is given: read, and refused where nothing could come of them, before a model is loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import IntervalStrategy

from ..data.encode import as_text
from ..data.records import DataError
from ..objectives.base import Objective
from .config import PreferenceConfig

logger = logging.getLogger(__name__)


def purpose_of(objective: Objective) -> str:
    """What an objective reads rows for, as `load` takes it: of one that learns from good answers, those alone."""
    return "sft" if objective.responses == 1 and not objective.needs & {"scorer", "label"} else "any"


def given_rows(train: Any, evaluation: Any, args: PreferenceConfig, purpose: str = "any") -> tuple[Any, Any]:
    """The rows to train and to evaluate on, read into columns of text; what is encoded stays as it is.

    Args:
        train: what a trainer was given as its train_dataset.
        evaluation: likewise its eval_dataset, of which there may be several in a dict.
        purpose: what they are read for.

    Raises:
        DataError: there are none, or what is given holds none or is of another kind; the message says which.
    """
    if train is None and evaluation is None:
        raise DataError("train_dataset is missing: pass the rows to train on, or an eval_dataset to evaluate only")
    if isinstance(train, Mapping):
        parts = ", ".join(map(str, train))
        raise DataError(f"train_dataset is a dict of datasets ({parts}): pass one of them, such as its part 'train'")
    if evaluation is None and args.eval_strategy != "no":
        raise DataError(
            f"eval_strategy={IntervalStrategy(args.eval_strategy).value!r} asks for evaluation, and eval_dataset is "
            "missing: pass one, or leave eval_strategy out"
        )
    return _read(train, "train_dataset", purpose), _read(evaluation, "eval_dataset", purpose)


def check_rows(objective: Objective, train: Any, evaluation: Any) -> None:
    """Refuse rows without the responses or the columns that an objective reads; say where held-out ones lack some.

    Args:
        train, evaluation: what `given_rows` returned.

    Raises:
        DataError: they lack some; the message says in which dataset.
    """
    for name, rows in [*_parts(train, "train_dataset"), *_parts(evaluation, "eval_dataset")]:
        try:
            check_responses(objective, rows)
        except ValueError as error:
            raise DataError(f"{name}: {error}") from error
        if lacking := objective.rows_lack(_filled(rows)):
            raise DataError(f"{name}: {lacking}")
    for name, rows in _parts(evaluation, "eval_dataset") if train is not None else ():
        if differing := objective.rows_differ(_filled(train), _filled(rows)):
            logger.warning("%s: %s", name, differing)


def check_responses(objective: Objective, rows: Dataset) -> None:
    """Refuse rows with another number of responses than the objective compares.

    Args:
        rows: of text or encoded.

    Raises:
        ValueError: there is such a row; the message names the first.
    """
    if "label" in rows.column_names:
        name, expected = type(objective.unpaired).__name__, "takes one with a label (prompt, completion, label)"
        return _check_counts(rows, lambda count: count == 1, f"{name} {expected}")
    wanted, name = objective.responses, type(objective).__name__
    if "label" in objective.needs:
        expected = "one with a label (prompt, completion, label), or pairs without (prompt, chosen, rejected)"
        return _check_counts(rows, lambda count: count == 2, f"{name} takes {expected}")
    if wanted == 1:
        expected = "learns from them: give it answers, such as (prompt, response)"
        return _check_counts(rows, lambda count: count > 0, f"{name} {expected}")
    lists = "" if wanted else " or lists (query, responses, scores)"
    expected = f"compares {wanted or f'at least {objective.fewest}'}: give it pairs (prompt, chosen, rejected){lists}"
    right = (lambda count: count == wanted) if wanted else (lambda count: count >= objective.fewest)
    return _check_counts(rows, right, f"{name} {expected}")


def _check_counts(rows: Dataset, right: Callable[[int], bool], why: str) -> None:
    counts = _counts(rows)
    wrong = next((i for i, count in enumerate(counts) if not right(count)), None)
    if wrong is not None:
        raise ValueError(f"row {wrong} has {counts[wrong] or 'no'} response{'s' * bool(counts[wrong])} and {why}")


def _counts(rows: Dataset) -> list[int]:
    """How many responses each row has."""
    for lists in ("response_ids", "responses"):
        if lists in rows.column_names:
            return [len(row or ()) for row in rows[lists]]
    return [len({"chosen", "rejected", "response"} & set(rows.column_names))] * len(rows)


def _parts(dataset: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Each dataset of a dict with what it is called, the dataset itself if it is one, nothing if there is none."""
    if isinstance(dataset, Mapping):
        for part, rows in dataset.items():
            yield f"{name}[{part!r}]", rows
    elif dataset is not None:
        yield name, dataset


def _read(dataset: Any, name: str, purpose: str) -> Any:
    if isinstance(dataset, Mapping):
        if not dataset:
            raise DataError(f"{name} is an empty dict: pass datasets by name, or leave it out")
        return {part: _rows(rows, f"{name}[{part!r}]", purpose) for part, rows in dataset.items()}
    return None if dataset is None else _rows(dataset, name, purpose)


def _rows(dataset: Any, name: str, purpose: str) -> Dataset:
    if dataset is None:
        raise DataError(f"{name} is None: pass rows, or leave it out of the dict")
    if not isinstance(dataset, Sized | str | Path):
        raise DataError(
            f"{name} is a {type(dataset).__name__}, and rows are encoded before training starts, so it cannot be a "
            "stream: load it without streaming, or read as many rows as fit, by "
            "load_preferences(list(stream.take(10_000))) or load_sft"
        )
    if isinstance(dataset, Sized) and not isinstance(dataset, str) and not len(dataset):
        raise DataError(f"{name} has 0 rows: pass rows, or see what a filter before this left out")
    if isinstance(dataset, Dataset) and {"prompt_ids", "response_ids"} <= set(dataset.column_names):
        return dataset
    try:
        return as_text(dataset, purpose)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def _filled(rows: Dataset) -> frozenset[str]:
    """The columns in which some row has a value."""
    return frozenset(name for name in rows.column_names if rows.data.column(name).null_count < len(rows))

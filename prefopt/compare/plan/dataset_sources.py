"""Loads the rows of a comparison, from a user's files or from the built-in synthetic task.

Both sources give pairs to learn from, held-out pairs, test prompts, and prompts for validation during training.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from datasets import Dataset

from ...candidates.candidate import prompt_key
from ...data.loading import load
from ...data.mapping import there
from ...data.records import Messages
from ...data.text_prompts import count_bare, users_turns
from ...testbed import Recipe, gold_of, preference_rows, sample_prompts, sft_rows
from ...utils import jsonl
from .plan import TESTBED, Data, Evaluation, PlanError

HELD_OUT = 1000
"""The seed of the synthetic task's test and validation rows, which are the same for all seeds of a plan."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """The rows that the methods of one seed learn from.

    Args:
        train: preference pairs; None where nothing is trained.
        validation: prompts for validation during training, none of which is in `train`.
        demonstrations: good answers; None where there are none.
    """

    train: Dataset | None
    validation: list[Messages]
    demonstrations: Dataset | None

    @property
    def pairs(self) -> Dataset:
        """The preference pairs, of a plan that trains something."""
        assert self.train is not None
        return self.train

    def write(self, folder: Path) -> None:
        """Write the rows into a folder, from which `read` has them again."""
        _write_table(folder / "train", self.train)
        _write_table(folder / "demonstrations", self.demonstrations)
        _write_prompts(folder / "validation.jsonl", self.validation)

    @classmethod
    def read(cls, folder: Path) -> TrainingData:
        """What `write` wrote."""
        return cls(_table(folder / "train"), _prompts(folder / "validation.jsonl"), _table(folder / "demonstrations"))


@dataclass(frozen=True)
class HeldOutData:
    """The rows that all methods are evaluated on.

    Args:
        pairs: None where the test rows are not pairs.
        prompts: distinct, and none of them in the training or validation data.
        notes: warnings for the report, as fields of `report.findings.Warning`.
    """

    pairs: Dataset | None
    prompts: list[Messages]
    notes: list[dict[str, Any]]

    def write(self, folder: Path) -> None:
        """Write the rows into a folder, from which `read` has them again."""
        _write_table(folder / "pairs", self.pairs)
        _write_prompts(folder / "prompts.jsonl", self.prompts)
        jsonl.replace(folder / "notes.jsonl", self.notes)

    @classmethod
    def read(cls, folder: Path) -> HeldOutData:
        """What `write` wrote."""
        notes = list(jsonl.read(folder / "notes.jsonl"))
        return cls(_table(folder / "pairs"), _prompts(folder / "prompts.jsonl"), notes)


def _write_table(folder: Path, table: Dataset | None) -> None:
    if table is not None:
        table.save_to_disk(folder)


def _table(folder: Path) -> Dataset | None:
    return Dataset.load_from_disk(folder) if folder.is_dir() else None


def _write_prompts(path: Path, prompts: Sequence[Messages]) -> None:
    jsonl.replace(path, ({"prompt": list(prompt)} for prompt in prompts))


def _prompts(path: Path) -> list[Messages]:
    return [row["prompt"] for row in jsonl.read(path)]


class DatasetSource(Protocol):
    """Where rows come from, and the gold reward of a response where it is known."""

    rows_per_seed: bool
    """Whether each seed has other rows to learn from."""

    def rows(self, seed: int) -> TrainingData: ...

    def held_out(self, rows: TrainingData) -> HeldOutData: ...

    def gold(
        self, prompts: Sequence[Messages], responses: Sequence[str], finished: Sequence[bool]
    ) -> list[float] | None: ...


def make_dataset_source(data: Data, evaluation: Evaluation) -> DatasetSource:
    """Where a plan's rows come from: the built-in synthetic task, or files; nothing is read yet."""
    return (SyntheticTask if data.train == TESTBED else FileSource)(data, evaluation)


@dataclass(frozen=True)
class SyntheticTask:
    """The synthetic task of `prefopt.testbed`: every seed samples other training rows; the test rows are the same."""

    data: Data
    evaluation: Evaluation
    rows_per_seed = True

    def rows(self, seed: int) -> TrainingData:
        recipe, validation_prompts = Recipe(), self.evaluation.curve_prompts
        return TrainingData(
            Dataset.from_list(preference_rows(self.data.train_rows or recipe.preference_rows, seed)),
            [prompt.messages for prompt in sample_prompts(validation_prompts, HELD_OUT, "validation", unique=True)],
            Dataset.from_list(sft_rows(recipe.sft_rows, seed)),
        )

    def held_out(self, rows: TrainingData) -> HeldOutData:
        pairs = preference_rows(self.evaluation.pairs or Recipe().held_out_pairs, HELD_OUT, "test")
        prompts = sample_prompts(self.evaluation.prompts, HELD_OUT, "test", unique=True)
        return HeldOutData(Dataset.from_list(pairs), [prompt.messages for prompt in prompts], [])

    def gold(self, prompts: Sequence[Messages], responses: Sequence[str], finished: Sequence[bool]) -> list[float]:
        return [gold_of(*row) for row in zip(prompts, responses, finished, strict=True)]


@dataclass(frozen=True)
class FileSource:
    """A user's files, in any format that an adapter reads; the rows are the same for every seed."""

    data: Data
    evaluation: Evaluation
    rows_per_seed = False

    def rows(self, seed: int) -> TrainingData:
        source = self.data.demonstrations
        demonstrations = self._read(source, "train", "sft") if source else None
        if self.data.train is None:
            return TrainingData(None, [], demonstrations)
        train = _first(self._read(self.data.train, "train"), self.data.train_rows)
        validation, train = self._validation(train)
        return TrainingData(train, validation, demonstrations)

    def held_out(self, rows: TrainingData) -> HeldOutData:
        """The test rows whose prompts are not in the training data.

        Raises:
            PlanError: every test prompt is also trained on.
        """
        learned_from = [table["prompt"] for table in (rows.train, rows.demonstrations) if table is not None]
        known = {prompt_key(prompt) for prompt in (*chain.from_iterable(learned_from), *rows.validation)}
        test, notes = _without_overlap(self._read(str(self.data.test), "test"), known)
        if rows.validation and self.data.validation is None:
            notes.append({"key": "set_aside", "values": {"prompts": len(rows.validation)}})
        return HeldOutData(self._pairs(test), _distinct(test["prompt"], self.evaluation.prompts), notes)

    def _read(self, source: str, split: str, purpose: str = "any") -> Dataset:
        columns = self.data.columns
        if columns and purpose == "sft":  # a demonstration need not have all columns of a pair
            columns = there(columns, source, split)
        rows = load(source, purpose, self.data.adapter, split, columns=columns)[0]
        if self.data.text_prompts == "user":
            return users_turns(rows)
        if bare := count_bare(rows):
            logger.warning(
                "%s: %d of %d prompts are plain text, and stay so for every method: a chat model wants them as turns, "
                "by text_prompts: user in the plan's data",
                source,
                bare,
                len(rows),
            )
        return rows

    def _validation(self, train: Dataset) -> tuple[list[Messages], Dataset]:
        """Prompts for validation during training, and the rows to learn from, which contain none of them."""
        count = self.evaluation.curve_prompts
        if self.data.validation is not None:
            known = {prompt_key(prompt) for prompt in train["prompt"]}
            prompts = self._read(self.data.validation, "validation")["prompt"]
            return _distinct((prompt for prompt in prompts if prompt_key(prompt) not in known), count), train
        keys = [prompt_key(prompt) for prompt in train["prompt"]]
        # Keys are hashes: their order is random, and the same in every run.
        set_aside = set(sorted(set(keys))[: min(count, len(set(keys)) // 4)])
        validation = _distinct((p for p, key in zip(train["prompt"], keys, strict=True) if key in set_aside), count)
        return validation, train.select([i for i, key in enumerate(keys) if key not in set_aside])

    def _pairs(self, test: Dataset) -> Dataset | None:
        is_pairs = {"chosen", "rejected"} <= set(test.column_names)
        return _first(test, self.evaluation.pairs) if is_pairs else None

    def gold(self, prompts: Sequence[Messages], responses: Sequence[str], finished: Sequence[bool]) -> None:
        return None


def _first(rows: Dataset, most: int | None) -> Dataset:
    """The first `most` rows, all of them where `most` is None."""
    return rows if most is None else rows.select(range(min(len(rows), most)))


def _distinct(prompts: Iterable[Messages], count: int) -> list[Messages]:
    """The first `count` distinct prompts."""
    by_key: dict[str, Messages] = {}
    for prompt in prompts:
        if len(by_key) == count:
            break
        by_key.setdefault(prompt_key(prompt), prompt)
    return list(by_key.values())


def _without_overlap(test: Dataset, known: set[str]) -> tuple[Dataset, list[dict[str, Any]]]:
    """The test rows whose prompts are not among the `known` keys, and a warning about the rows left out.

    Raises:
        PlanError: every row would be left out.
    """
    keys = [prompt_key(prompt) for prompt in test["prompt"]]
    shared = [number for number, key in enumerate(keys) if key in known]
    if not shared:
        return test, []
    if len(shared) == len(test):
        raise PlanError(f"data: every prompt of the {len(test)} test rows is also trained on: give rows held out")
    example = test[shared[0]]["prompt"][-1]["content"][:80]
    values = {"dropped": len(set(keys) & known), "of": len(set(keys)), "example": example}
    note = {"key": "overlap", "values": values, "serious": True}
    return test.select([number for number, key in enumerate(keys) if key not in known]), [note]

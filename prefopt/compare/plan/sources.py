"""Where a comparison's rows come from: a user's files, or the built-in small world. Trains nothing.

Both give the same things: pairs to learn from, pairs held out, prompts to answer and prompts to watch training by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from datasets import Dataset

from ...candidates.candidate import prompt_key
from ...data.loading import load
from ...data.records import Messages
from ...testbed import Recipe, draw_prompts, gold_of, preference_rows, sft_rows
from ...utils import jsonl
from .plan import TESTBED, Data, Evaluation, PlanError

HELD_OUT = 1000
"""The seed of the small world's test and validation rows, which are the same for all seeds."""


@dataclass(frozen=True)
class Rows:
    """What a seed learns from.

    Args:
        train: preference pairs.
        validation: prompts that are none of `train`'s, to watch training by.
        demonstrations: None where there are none.
    """

    train: Dataset
    validation: list[Messages]
    demonstrations: Dataset | None

    def write(self, folder: Path) -> None:
        _write_table(folder / "train", self.train)
        _write_table(folder / "demonstrations", self.demonstrations)
        _write_prompts(folder / "validation.jsonl", self.validation)

    @classmethod
    def read(cls, folder: Path) -> Rows:
        train = Dataset.load_from_disk(folder / "train")
        return cls(train, _prompts(folder / "validation.jsonl"), _table(folder / "demonstrations"))


@dataclass(frozen=True)
class HeldOut:
    """What all are measured on.

    Args:
        pairs: None where the test rows are no pairs.
        prompts: different ones, none of them among those that are trained on or chosen by.
        notes: fields of `report.findings.Warning`.
    """

    pairs: Dataset | None
    prompts: list[Messages]
    notes: list[dict[str, Any]]

    def write(self, folder: Path) -> None:
        _write_table(folder / "pairs", self.pairs)
        _write_prompts(folder / "prompts.jsonl", self.prompts)
        jsonl.replace(folder / "notes.jsonl", self.notes)

    @classmethod
    def read(cls, folder: Path) -> HeldOut:
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
    return [each["prompt"] for each in jsonl.read(path)]


class World(Protocol):
    """Gives rows, and the gold reward of a response where it is known."""

    own_rows: bool
    """Each seed has other rows to learn from."""

    def rows(self, seed: int) -> Rows: ...

    def held_out(self, rows: Rows) -> HeldOut: ...

    def gold(
        self, prompts: Sequence[Messages], responses: Sequence[str], finished: Sequence[bool]
    ) -> list[float] | None: ...


def world_of(data: Data, evaluation: Evaluation) -> World:
    return (SmallWorld if data.train == TESTBED else Files)(data, evaluation)


@dataclass(frozen=True)
class SmallWorld:
    """`prefopt.testbed`: every seed draws rows of its own, and all are measured on the same."""

    data: Data
    evaluation: Evaluation
    own_rows = True

    def rows(self, seed: int) -> Rows:
        recipe, watched = Recipe(), self.evaluation.curve_prompts
        return Rows(
            Dataset.from_list(preference_rows(self.data.train_rows or recipe.preference_rows, seed)),
            [prompt.messages for prompt in draw_prompts(watched, HELD_OUT, "validation", unique=True)],
            Dataset.from_list(sft_rows(recipe.sft_rows, seed)),
        )

    def held_out(self, rows: Rows) -> HeldOut:
        pairs = preference_rows(self.evaluation.pairs or Recipe().held_out_pairs, HELD_OUT, "test")
        prompts = draw_prompts(self.evaluation.prompts, HELD_OUT, "test", unique=True)
        return HeldOut(Dataset.from_list(pairs), [prompt.messages for prompt in prompts], [])

    def gold(self, prompts: Sequence[Messages], responses: Sequence[str], finished: Sequence[bool]) -> list[float]:
        return [gold_of(*row) for row in zip(prompts, responses, finished, strict=True)]


@dataclass(frozen=True)
class Files:
    """A user's data, in any format that an adapter knows; the same rows for every seed."""

    data: Data
    evaluation: Evaluation
    own_rows = False

    def rows(self, seed: int) -> Rows:
        train, most = self._read(self.data.train, "train"), self.data.train_rows
        train = train if most is None else train.select(range(min(len(train), most)))
        validation, train = self._validation(train)
        demonstrations = self.data.demonstrations and load(self.data.demonstrations, "sft")[0]
        return Rows(train, validation, demonstrations or None)

    def held_out(self, rows: Rows) -> HeldOut:
        """Raises: PlanError: every test prompt is also trained on."""
        demonstrated = [] if rows.demonstrations is None else rows.demonstrations["prompt"]
        known = {prompt_key(prompt) for prompt in (*rows.train["prompt"], *rows.validation, *demonstrated)}
        test, notes = _apart(self._read(str(self.data.test), "test"), known)
        if rows.validation and self.data.validation is None:
            notes.append({"key": "set_aside", "values": {"prompts": len(rows.validation)}})
        return HeldOut(self._pairs(test), _different(test["prompt"], self.evaluation.prompts), notes)

    def _read(self, source: str, split: str) -> Dataset:
        return load(source, "any", self.data.adapter, split)[0]

    def _validation(self, train: Dataset) -> tuple[list[Messages], Dataset]:
        """Prompts to watch training by, and the rows to learn from, which have none of them."""
        count = self.evaluation.curve_prompts
        if self.data.validation is not None:
            known = {prompt_key(prompt) for prompt in train["prompt"]}
            given = self._read(self.data.validation, "validation")["prompt"]
            return _different((prompt for prompt in given if prompt_key(prompt) not in known), count), train
        keys = [prompt_key(prompt) for prompt in train["prompt"]]
        # Keys are hashes, so that their order is chance, and the same in every run.
        held = set(sorted(set(keys))[: min(count, len(set(keys)) // 4)])
        found = _different((p for p, key in zip(train["prompt"], keys, strict=True) if key in held), count)
        return found, train.select([i for i, key in enumerate(keys) if key not in held])

    def _pairs(self, test: Dataset) -> Dataset | None:
        if not {"chosen", "rejected"} <= set(test.column_names):
            return None
        most = self.evaluation.pairs
        return test if most is None else test.select(range(min(len(test), most)))

    def gold(self, prompts: Sequence[Messages], responses: Sequence[str], finished: Sequence[bool]) -> None:
        return None


def _different(prompts: Any, count: int) -> list[Messages]:
    """The first `count` different ones."""
    found: dict[str, Messages] = {}
    for prompt in prompts:
        if len(found) == count:
            break
        found.setdefault(prompt_key(prompt), prompt)
    return list(found.values())


def _apart(test: Dataset, known: set[str]) -> tuple[Dataset, list[dict[str, Any]]]:
    """The test rows whose prompts training does not have, and a note about the others.

    Raises:
        PlanError: there are no such rows.
    """
    keys = [prompt_key(prompt) for prompt in test["prompt"]]
    shared = [number for number, key in enumerate(keys) if key in known]
    if not shared:
        return test, []
    if len(shared) == len(test):
        raise PlanError(f"data: every prompt of the {len(test)} test rows is also trained on: give rows held out")
    asked = test[shared[0]]["prompt"][-1]["content"][:80]
    values = {"dropped": len(set(keys) & known), "of": len(set(keys)), "example": asked}
    note = {"key": "overlap", "values": values, "serious": True}
    return test.select(list(_others(len(test), set(shared)))), [note]


def _others(count: int, left_out: set[int]) -> Iterator[int]:
    return (number for number in range(count) if number not in left_out)

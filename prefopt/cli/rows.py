"""Which rows a command reads, trains on and evaluates on. Knows no format: `prefopt.data` does."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import DataError, LoadReport, load
from ..data.mapping import parsed_columns
from ..data.reading import read_rows
from ..training.arguments import RowsArguments, ScriptArguments

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """Rows of text to train on, rows held out from them, and the account of how the former were read."""

    train: datasets.Dataset
    evaluation: datasets.Dataset | None
    report: LoadReport


def load_rows(args: ScriptArguments, training: Any, purpose: str) -> Rows:
    """The rows that the arguments name; without any for evaluation, the test split if `eval_strategy` asks for one."""

    def rows(source: str, split: str) -> tuple[datasets.Dataset, LoadReport]:
        column = getattr(training, "dataset_text_field", "text")
        return load(_source(source, split, args, column), purpose, **_reading(args, split))

    train, report = rows(str(args.dataset_name), args.dataset_train_split)
    if args.eval_ratio:
        return Rows(*hold_out(train, args.eval_ratio, training.seed), report)
    if args.eval_dataset is None and training.eval_strategy == "no":
        return Rows(train, None, report)
    source = args.eval_dataset or _with_splits(str(args.dataset_name))
    return Rows(train, rows(source, args.dataset_test_split)[0], report)


def read(args: RowsArguments, purpose: str) -> datasets.Dataset:
    """The rows that the arguments name, for a command that does not train."""
    split = args.dataset_train_split
    return load(_source(str(args.dataset_name), split, args), purpose, **_reading(args, split))[0]


def _reading(args: RowsArguments, split: str) -> dict[str, Any]:
    columns = parsed_columns(args.columns)
    return {"adapter": args.adapter, "split": split, "columns": columns, "ties": args.ties}


def hold_out(rows: datasets.Dataset, ratio: float, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Training and evaluation rows. Rows of one prompt stay together: a known prompt is no test."""
    keys = [repr(prompt) for prompt in rows["prompt"]]
    prompts = sorted(set(keys))
    random.Random(seed).shuffle(prompts)
    held_out = set(prompts[: max(1, round(ratio * len(prompts)))])
    if len(held_out) == len(prompts):
        raise ValueError(f"eval_ratio={ratio} of {len(prompts)} distinct prompts leaves none to train on")
    where = [key in held_out for key in keys]
    train, evaluation = ([i for i, inside in enumerate(where) if inside is side] for side in (False, True))
    return rows.select(train), rows.select(evaluation)


def _with_splits(source: str) -> str:
    if Path(source).expanduser().is_file():
        raise DataError(
            "--eval_strategy asks for evaluation, and a single file has no test split: "
            "add --eval_dataset FILE, or --eval_ratio 0.05"
        )
    return source


def _source(source: str, split: str, args: RowsArguments, column: str = "text") -> Any:
    """What `load` reads: the name as it is, unless a configuration or a column of text has to be chosen first."""
    found = _configured(source, args.dataset_config, split) if args.dataset_config else source
    return found if column == "text" else _texts(found, split, column)


def _configured(name: str, config: str, split: str) -> datasets.Dataset:
    import datasets

    try:
        return datasets.load_dataset(name, config, split=split)
    except Exception as error:  # whatever the hub client raises, the user needs to know which name it was about
        raise DataError(f"{name}, configuration {config!r}, split {split!r}: {error}") from error


def _texts(source: Any, split: str, column: str) -> list[dict[str, Any]]:
    """Rows of bare text, whatever their column is called."""
    report = LoadReport(str(source))
    rows = list(read_rows(source, split, report))
    for line in report.lines()[1:]:
        logger.warning("%s", line)
    for origin, row in rows:
        if column not in row:
            raise DataError(f"{origin}: no field {column!r}, which --dataset_text_field names; it has {', '.join(row)}")
    return [{"text": row[column]} for _, row in rows]

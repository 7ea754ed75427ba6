"""Which rows a training command trains on and evaluates on. Knows no format: `prefopt.data` does."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import ScriptArguments
from ..data import DataError, LoadReport, load

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Rows:
    """Rows of text to train on, rows held out from them, and the account of how the former were read."""

    train: datasets.Dataset
    evaluation: datasets.Dataset | None
    report: LoadReport


def load_rows(args: ScriptArguments, training: Any, purpose: str) -> Rows:
    """The rows that the arguments name; without any for evaluation, the test split if `eval_strategy` asks for one."""
    train, report = load(_source(args, args.dataset_train_split), purpose, args.adapter, args.dataset_train_split)
    if args.eval_ratio:
        train, evaluation = hold_out(train, args.eval_ratio, training.seed)
        return Rows(train, evaluation, report)
    source: Any = args.eval_dataset
    if source is None:
        if training.eval_strategy == "no":
            return Rows(train, None, report)
        source = _test_split(args)
    return Rows(train, load(source, purpose, args.adapter, args.dataset_test_split)[0], report)


def hold_out(rows: datasets.Dataset, ratio: float, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Training and evaluation rows. Rows of one prompt stay together: a known prompt is no test."""
    keys = [repr(prompt) for prompt in rows["prompt"]]
    prompts = sorted(set(keys))
    random.Random(seed).shuffle(prompts)
    held = set(prompts[: max(1, round(ratio * len(prompts)))])
    if len(held) == len(prompts):
        raise ValueError(f"eval_ratio={ratio} of {len(prompts)} distinct prompts leaves none to train on")
    where = [key in held for key in keys]
    train, evaluation = ([i for i, inside in enumerate(where) if inside is side] for side in (False, True))
    return rows.select(train), rows.select(evaluation)


def _test_split(args: ScriptArguments) -> Any:
    if Path(str(args.dataset_name)).expanduser().is_file():
        raise DataError(
            "--eval_strategy asks for evaluation, and a single file has no test split: "
            "add --eval_dataset FILE, or --eval_ratio 0.05"
        )
    return _source(args, args.dataset_test_split)


def _source(args: ScriptArguments, split: str) -> Any:
    """What `load` reads: the name as it is, unless a configuration has to be chosen on the hub."""
    if args.dataset_config is None:
        return args.dataset_name
    import datasets

    try:
        return datasets.load_dataset(args.dataset_name, args.dataset_config, split=split)
    except Exception as error:  # whatever the hub client raises, the user needs to know which name it was about
        raise DataError(
            f"{args.dataset_name}, configuration {args.dataset_config!r}, split {split!r}: {error}"
        ) from error

"""What a run is, in plain values under a format number: what must be the same for a folder to be gone on with.

Nothing here depends on how Python prints an object, on module paths or on the version of prefopt, so that a folder
outlives them. Model, tokenizer and data are named by hashes of their content (`content.py`), settings by their values.
What version 0.1.0 wrote (format 1, which has no number) is read as what it meant.
"""

from __future__ import annotations

import ast
import json
import logging
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from transformers import SchedulerType
from transformers.training_args import OptimizerNames

from ..objectives.base import Objective

logger = logging.getLogger(__name__)

FORMAT = 3
"""2 had no hashes of model, tokenizer and data, and of the settings only those of `SPLIT`, `seed` and a few more."""
RENAMED = {"BestOf": "SFT"}
"""Objectives of format 1 that have another name now."""

PRINTED = ("learning_rate", "num_train_epochs", "max_steps", "warmup_steps", "max_length")
"""Arguments of iterations that format 1 held as text."""
ENUMS: Mapping[str, Any] = {"SchedulerType": SchedulerType, "OptimizerNames": OptimizerNames}
"""Kinds of arguments that format 1 held by their Python name."""

SPLIT = ("per_device_train_batch_size", "gradient_accumulation_steps", "processes")
"""By what the rows of a step are split."""
ROUNDING = frozenset(
    ("layout", "pad_to_multiple_of", "precompute_ref_log_probs", "precompute_ref_batch_size", "use_cpu", "tf32")
)
"""Settings that change how numbers are rounded, and nothing else."""
END = ("max_steps", "num_train_epochs")
"""How far training goes: by steps if there is a number of them, else by epochs."""
ENDLESS = ("constant", "constant_with_warmup", "inverse_sqrt")
"""Schedules that do not depend on it."""
SHOWN = 8
"""How many names of what cannot be compared are written out."""

Run = Mapping[str, Any]


def plain(value: Any) -> Any:
    """A setting as JSON holds it; what JSON cannot hold is named by its type."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(part) for part in value), key=str)
    return str(value) if isinstance(value, Path) else type(value).__qualname__


def objective_description(objective: Objective) -> dict[str, Any]:
    """The objective's name and hyperparameters, but for those that may be others when a run goes on."""
    names: list[str] = [field.name for field in fields(objective)] if is_dataclass(objective) else []
    hyperparameters = {name: plain(getattr(objective, name)) for name in names if name not in objective.free}
    return {"name": type(objective).__name__, **hyperparameters}


@dataclass(frozen=True)
class Comparison:
    """Two descriptions of a run: what differs, and what cannot be told.

    Args:
        changed: name -> what it was, and what it is.
        unknown: what only the later one says.
        same_steps: steps are made of the same rows, though split otherwise over batches and processes.
        goes_further: only the end of training differs, and it has moved on without a change of any step before it.
    """

    changed: Mapping[str, tuple[Any, Any]]
    unknown: tuple[str, ...]
    same_steps: bool
    goes_further: bool

    @classmethod
    def of(cls, then: Run, now: Run) -> Comparison:
        before, after = (dict(_flat(_upgraded(run))) for run in (then, json.loads(json.dumps(now))))
        after.pop("format", None)
        changed = {name: (before[name], value) for name, value in after.items() if before.get(name, value) != value}
        by_steps = [(run.get("max_steps") or 0) > 0 for run in (before, after)]
        if all(by_steps):
            changed.pop("num_train_epochs", None)  # which counts for nothing then
        return cls(
            changed=changed,
            unknown=tuple(name for name in after if name not in before),
            same_steps=_rows_of_a_step(before) == _rows_of_a_step(after),
            goes_further=len(set(by_steps)) == 1
            and _end_is_free(after)
            and all(then < now for then, now in (changed[name] for name in END if name in changed)),
        )

    def rounding(self) -> list[str]:
        """What differs and changes results by rounding alone."""
        names = (*ROUNDING, *(SPLIT if self.same_steps else ()))
        return [name for name in self.changed if name in names]

    def refused(self, changes: Collection[str] = ()) -> list[str]:
        """What differs and may not.

        Args:
            changes: what may, beside what always may.
        """
        free = {*self.rounding(), *changes, *(END if self.goes_further else ())}
        return [name for name in self.changed if name not in free]

    def worded(self, names: Collection[str]) -> str:
        return "; ".join(f"{name}: {self.changed[name][0]!r} -> {self.changed[name][1]!r}" for name in names)


def check_same(folder: Path, then: Run, now: Run, changes: Collection[str] = ()) -> None:
    """Make sure that a folder is of the run that goes on in it; says what differs and may, and what cannot be compared.

    Args:
        then: the description in the folder.
        now: that of the run.
        changes: names of what may differ.

    Raises:
        ValueError: they differ in something else.
    """
    found = Comparison.of(then, now)
    if refused := found.refused(changes):
        raise ValueError(
            f"{folder} belongs to another run: {found.worded(refused)}. Give what it was begun with; or, to go on all "
            f"the same, name what may differ: resume_with_changes={refused}, on the command line "
            f"--resume_with_changes {' '.join(refused)}"
        )
    if found.unknown:
        names = list(dict.fromkeys(name.partition(".")[0] for name in found.unknown))
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        logger.warning(
            "%s does not say what these were, so they could not be compared: %s%s",
            folder,
            ", ".join(names[:SHOWN]),
            more,
        )
    if rounding := found.rounding():
        logger.warning(
            "going on with %s: the results equal those of the run as it was to about 1e-5, not to the bit",
            found.worded(rounding),
        )
    if others := [name for name in found.changed if name not in rounding]:
        logger.info("going on with %s", found.worded(others))


def _rows_of_a_step(run: Run) -> Any:
    """By what an optimizer step's rows are chosen, however they are split over batches and processes."""
    batches: list[Any] = [run.get(name) for name in SPLIT]
    budget = run.get("max_tokens_per_batch")
    sizes = batches if budget is None else batches[1:]
    return budget, None if None in sizes else math.prod(sizes)


def _end_is_free(run: Run) -> bool:
    """Whether no step depends on how many are to follow."""
    warmup = run.get("warmup_steps") or 0
    return run.get("lr_scheduler_type") in ENDLESS and (warmup == 0 or warmup >= 1)


def _flat(run: Run, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in run.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _upgraded(run: Run) -> Run:
    """A description in today's format. Format 1 held objectives and some arguments as Python prints them."""
    if "format" in run:
        return run
    return {name: _read(name, value) for name, value in run.items()}


def _read(name: str, value: Any) -> Any:
    """A value of format 1: `DPO(beta=0.1)` is a name and hyperparameters, `SchedulerType.LINEAR` is "linear"."""
    if not isinstance(value, str):
        return value
    try:
        tree = ast.parse(value, mode="eval").body
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and name == "objective":
            settings = {word.arg: plain(ast.literal_eval(word.value)) for word in tree.keywords if word.arg}
            return {"name": RENAMED.get(tree.func.id, tree.func.id), **settings}
        if isinstance(tree, ast.Attribute) and isinstance(tree.value, ast.Name) and tree.value.id in ENUMS:
            return ENUMS[tree.value.id][tree.attr].value
        return plain(ast.literal_eval(tree)) if name in PRINTED else value
    except (SyntaxError, ValueError, KeyError):
        return value

"""What belongs where among a trainer's arguments: an argument in another's place is named, with where it belongs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import datasets
from peft import PeftConfig
from torch import nn
from transformers import PreTrainedTokenizerBase, ProcessorMixin, TrainerCallback, TrainingArguments

from ..objectives.base import Objective

MODEL, ARGUMENTS, ROWS, TOKENIZER = "a model", "training arguments", "rows", "a tokenizer"
ADAPTER, OBJECTIVE, CALLBACK, TEXT = "an adapter's config", "an objective", "a callback", "text"


def _is_class(value: Any, kind: type) -> bool:
    return isinstance(value, type) and issubclass(value, kind)


def _has_rows(value: Any) -> bool:
    """Whether this is a dataset, a list of dicts, or a dict of either."""
    if isinstance(value, dict):
        return any(map(_has_rows, value.values()))
    if isinstance(value, list):
        return bool(value) and all(isinstance(row, dict) for row in value)
    return isinstance(value, datasets.Dataset | datasets.IterableDataset)


_IS: dict[str, Callable[[Any], bool]] = {
    MODEL: lambda value: isinstance(value, nn.Module),
    ARGUMENTS: lambda value: isinstance(value, TrainingArguments) or _is_class(value, TrainingArguments),
    ROWS: _has_rows,
    TOKENIZER: lambda value: isinstance(value, PreTrainedTokenizerBase | ProcessorMixin),
    ADAPTER: lambda value: isinstance(value, PeftConfig),
    OBJECTIVE: lambda value: isinstance(value, Objective) or _is_class(value, Objective),
    CALLBACK: lambda value: isinstance(value, TrainerCallback) or _is_class(value, TrainerCallback),
    TEXT: lambda value: isinstance(value, str),
}
"""Kind of value -> whether a value is one. What is of no kind here is left to whoever reads the argument."""

_SOURCE, _DATA = (MODEL, TEXT), (ROWS, TEXT)
TAKES: dict[str, tuple[str, ...]] = {
    "model": _SOURCE,
    "ref_model": _SOURCE,
    "critic": _SOURCE,
    "scorer": _SOURCE,
    "objective": (OBJECTIVE, TEXT),
    "args": (ARGUMENTS,),
    "train_dataset": _DATA,
    "eval_dataset": _DATA,
    "ptx_dataset": _DATA,
    "processing_class": (TOKENIZER,),
    "tokenizer": (TOKENIZER,),
    "peft_config": (ADAPTER,),
    "callbacks": (CALLBACK,),
    "data_collator": (),
    "compute_metrics": (),
    "compute_loss_func": (),
    "optimizers": (),
}
"""Argument of a trainer -> the kinds that it takes."""

_HOME = {
    ARGUMENTS: "args",
    ROWS: "train_dataset",
    TOKENIZER: "processing_class",
    ADAPTER: "peft_config",
    OBJECTIVE: "objective",
    CALLBACK: "callbacks",
}
"""Kind -> the argument that takes it, where there is one."""


def check_places(trainer: type, given: Mapping[str, Any]) -> None:
    """Check that no argument of a trainer was given in another's place, as happens where they are given in order.

    Args:
        trainer: its class.
        given: arguments by the names that they were taken for.

    Raises:
        TypeError: one was; the message says which, where it belongs, and the order of arguments.
    """
    order = arguments_in_order(trainer)
    for name, value in given.items():
        kind = next((kind for kind, is_one in _IS.items() if is_one(value)), None)
        if kind is None or name not in TAKES:
            continue
        if kind in TAKES[name]:
            if kind == CALLBACK:
                raise TypeError(f"{name} is a callback ({_named(value)}): give a list, {name}=[{_named(value)}(...)]")
            if isinstance(value, type):
                raise TypeError(f"{name} is the class {value.__name__}: give an object, {value.__name__}(...)")
            continue
        number = f", argument {order.index(name) + 1}," if name in order else ""
        raise TypeError(
            f"{trainer.__name__}: {name}{number} is {kind} ({_named(value)}){_advice(order, name, kind)}. The order of "
            f"arguments is {', '.join(order)}; write their names, as in {name}=..., to be safe"
        )


def arguments_in_order(trainer: type) -> list[str]:
    """The names of a trainer's arguments that may be given in order; what it hands on with `*` is its parent's."""
    names: list[str] = []
    for kind in trainer.__mro__:
        if "__init__" not in vars(kind):
            continue
        parameters = list(inspect.signature(vars(kind)["__init__"]).parameters.values())[1:]
        in_order = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        names += [name for name in in_order if name not in names]
        if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            break
    return names


def _advice(order: list[str], name: str, kind: str) -> str:
    if kind == OBJECTIVE and "objective" not in order:
        return ", and this trainer has its own: take PreferenceTrainer(model, objective, args, ...)"
    if kind == TEXT and TOKENIZER in TAKES[name]:
        return ": load it with AutoTokenizer.from_pretrained, or leave it out to take the model's own"
    home = _HOME.get(kind)
    return f", which belongs to {home}" if home and home != name else ""


def _named(value: Any) -> str:
    if isinstance(value, str):
        return repr(value)
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__

"""Rotary frequencies that depend on how long a sequence is: each row is run with those of its own length.

Dynamic NTK scaling computes the frequencies anew for each length beyond the model's context, and longrope has one set
for rows up to the original context and another for longer ones. transformers takes the longest row of the input for
all of it, and with dynamic scaling that of an earlier input: what a model says of a row would depend on its batch.
So rows are divided into parts that share their frequencies, and a model runs on each part alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Batch

DYNAMIC, LONGROPE = "dynamic", "longrope"

T = TypeVar("T")


@dataclass(frozen=True)
class LengthRule:
    """How the frequencies of one kind of layers depend on the length of a sequence.

    Args:
        kind: "dynamic" or "longrope".
        limit: up to so many tokens the frequencies are the same.
        module: which computes them.
        prefix: of the names that they have in the module, which may serve several kinds of layers.
    """

    kind: str
    limit: int
    module: Any
    prefix: str = ""

    def class_of(self, length: int) -> int:
        """The same for all lengths that have the same frequencies."""
        return 0 if length <= self.limit else length if self.kind == DYNAMIC else 1

    def forget(self) -> None:
        """Put dynamic frequencies back to those of a model that has seen no longer sequence."""
        if self.kind == DYNAMIC:
            setattr(self.module, f"{self.prefix}inv_freq", getattr(self.module, f"{self.prefix}original_inv_freq"))
            setattr(self.module, f"{self.prefix}max_seq_len_cached", self.limit)


_rules: WeakKeyDictionary[nn.Module, list[LengthRule]] = WeakKeyDictionary()


def length_rules(inner: nn.Module) -> list[LengthRule]:
    """How the frequencies of a model depend on the length of a sequence: for most models not at all.

    Args:
        inner: the model without its wrappers.
    """
    if inner not in _rules:
        _rules[inner] = [rule for module in inner.modules() for rule in _rules_of(module)]
    return _rules[inner]


def _rules_of(module: Any) -> list[LengthRule]:
    kinds = vars(module).get("rope_type")
    if not kinds or not hasattr(module, "config"):
        return []
    if not isinstance(kinds, dict):
        return _rule(module, kinds, module.config.rope_parameters, "")
    parameters = module.config.rope_parameters
    return [rule for layer, kind in kinds.items() for rule in _rule(module, kind, parameters[layer], f"{layer}_")]


def _rule(module: Any, kind: str, parameters: Any, prefix: str) -> list[LengthRule]:
    if DYNAMIC in kind:
        return [LengthRule(DYNAMIC, int(module.original_max_seq_len), module, prefix)]
    if kind == LONGROPE:
        return [LengthRule(LONGROPE, int(parameters["original_max_position_embeddings"]), module, prefix)]
    return []


def forget_lengths(inner: nn.Module) -> None:
    """Let no earlier input of a model decide about the frequencies of the next."""
    for rule in length_rules(inner):
        rule.forget()


def parts_by_frequencies(inner: nn.Module, items: Iterable[T], length: Callable[[T], int]) -> list[list[T]]:
    """The items in parts that share their frequencies, in the order in which each part's first comes.

    Args:
        length: how many tokens an item has.
    """
    rules = length_rules(inner)
    parts: dict[tuple[int, ...], list[T]] = {}
    for item in items:
        parts.setdefault(tuple(rule.class_of(length(item)) for rule in rules), []).append(item)
    return list(parts.values())


def run_by_frequencies(inner: nn.Module, batch: Batch, run: Callable[[Batch], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Run a model on each part of a batch whose responses share their frequencies, and put the results together.

    Args:
        inner: the model without its wrappers.
        batch: of which a response's length counts with that of its prompt.
        run: gives columns of two or three axes, 0 where a response is absent.
    """
    if not length_rules(inner):
        return run(batch)
    lengths = batch.prompt_mask.sum(-1, keepdim=True) + batch.response_mask.sum(-1)
    cells = [(g, k) for g, k in batch.present.nonzero().tolist()]
    of_cell = dict(zip(cells, lengths[batch.present].tolist(), strict=True))
    parts = parts_by_frequencies(inner, cells, of_cell.__getitem__)
    if len(parts) < 2:
        return run(batch)
    results = [_run_part(batch, part, run) for part in parts]
    return {name: sum((result[name] for result in results[1:]), results[0][name]) for name in results[0]}


def _run_part(
    batch: Batch, cells: list[tuple[int, int]], run: Callable[[Batch], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What `run` says of some (prompt, response), and 0 of all others."""
    chosen = batch.present.new_zeros(batch.present.shape)
    chosen[tuple(zip(*cells, strict=True))] = True
    rows = chosen.any(-1).nonzero()[:, 0]
    part = batch.with_columns(response_mask=batch.response_mask & chosen[..., None]).rows(rows).trimmed()
    width = batch.response_mask.shape[-1]

    def spread(column: Tensor) -> Tensor:
        if column.dim() == 3:
            column = F.pad(column, (0, width - column.shape[-1]))
        return column.new_zeros(len(chosen), *column.shape[1:]).index_add(0, rows, column)

    return {name: spread(column) for name, column in run(part).items()}

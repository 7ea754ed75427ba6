"""Checks what a user's own objective declares and returns, with words on how to write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch, Outputs
from ..utils.names import hint
from .base import IMPLIED, Loss, Metric, Objective, Term, load

NEEDS = ("reference", "mismatched", "label", "scorer")
"""What `Objective.needs` may name."""


def checked_objective(value: Any) -> Objective:
    """The objective that was given by its name, or as it is, whose declarations name what there is.

    Raises:
        TypeError: no objective, its class, or a declaration of another type.
        ValueError: an unknown name.
    """
    objective = load(value) if isinstance(value, str) else value
    if isinstance(objective, type):
        raise TypeError(f"objective is the class {objective.__name__}: give an object, {objective.__name__}(...)")
    if not isinstance(objective, Objective):
        raise TypeError(
            f"objective is {_described(objective)}: give a name, such as 'dpo', or an object of a subclass of "
            "Objective, whose method loss(self, out, batch) returns a Loss"
        )
    name = type(objective).__name__
    if objective.trains not in IMPLIED:
        raise ValueError(f"{name}.trains is {objective.trains!r}{hint(str(objective.trains), IMPLIED)}")
    outputs = [field.name for field in fields(Outputs)]
    for member, known in (("needs", NEEDS), ("wants", outputs)):
        declared = getattr(objective, member)
        if not isinstance(declared, frozenset):
            raise TypeError(
                f"{name}.{member} is {declared!r}: write a frozenset of names, such as frozenset({{{known[0]!r}}})"
            )
        for unknown in sorted(map(str, declared - set(known))):
            raise ValueError(f"{name}.{member} has {unknown!r}{hint(unknown, known)}")
    return objective


def loss_of(objective: Objective, out: Outputs, batch: Batch) -> Loss:
    """Compute an objective's loss, and check that it is one; an error of its own gets a note on what there was to read.

    Raises:
        TypeError: what it returned is no `Loss` whose terms can be added up; the message says how to write one.
        ValueError: a unit that is not counted, rewards of another shape, or terms without a gradient.
    """
    try:
        value = objective.loss(out, batch)
    except Exception as error:
        error.add_note(_what_there_was(objective, out, batch))
        raise
    return checked_loss(objective, value, out, batch)


def checked_loss(objective: Objective, value: Any, out: Outputs, batch: Batch) -> Loss:
    """Check that what an objective's `loss` returned is a `Loss` whose terms can be added up, and return it.

    Raises:
        TypeError, ValueError: as `loss_of`.
    """
    name = type(objective).__name__
    if not isinstance(value, Loss):
        raise TypeError(
            f"{name}.loss returned {_described(value)}, not a Loss: return Loss({{'{name.lower()}': Term(total, "
            "'prompts')}), where total is the SUM over rows and 'prompts' says what it sums over"
        )
    if not isinstance(value.terms, Mapping) or not value.terms:
        raise TypeError(
            f"{name}.loss: terms is {_described(value.terms)}: give a dict of at least one Term by its name, such as "
            f"Loss({{'{name.lower()}': Term(total, 'prompts')}})"
        )
    if not isinstance(value.metrics, Mapping):
        raise TypeError(f"{name}.loss: metrics is {_described(value.metrics)}: give a dict of Metric by their names")
    units = objective.sizes(batch)
    for key, term in value.terms.items():
        _check_term(f"{name}.loss: the term {key!r}", term, units)
    for key, metric in value.metrics.items():
        _check_metric(f"{name}.loss: the metric {key!r}", metric)
    if value.rewards is not None:
        _check_rewards(f"{name}.loss: rewards", value.rewards, batch.present)
    learns = [output for output in vars(out).values() if output is not None and output.requires_grad]
    if torch.is_grad_enabled() and learns and not any(term.total.requires_grad for term in value.terms.values()):
        raise ValueError(
            f"{name}.loss: no term depends on the model's outputs, so nothing can be learnt: compute it from `out` "
            "without detach(), item() or torch.no_grad()"
        )
    return value


def _check_term(where: str, term: Any, units: dict[str, Tensor]) -> None:
    if not isinstance(term, Term) or not isinstance(term.total, Tensor) or term.total.dim() != 0:
        given = _described(term.total if isinstance(term, Term) else term)
        raise TypeError(
            f"{where} is {given}: give Term(total, unit), where total is a tensor with one number, the SUM over rows, "
            "such as losses.sum()"
        )
    if term.unit not in units:
        raise ValueError(f"{where} has the unit {term.unit!r}, which is not counted{hint(str(term.unit), units)}")


def _check_metric(where: str, metric: Any) -> None:
    if not isinstance(metric, Metric):
        raise TypeError(
            f"{where} is {_described(metric)}: give Metric(total, count), a sum and how many values it has, or "
            "mean_of(values, batch.present)"
        )
    for part in ("total", "count"):
        number = getattr(metric, part)
        if torch.as_tensor(number).numel() != 1:
            raise TypeError(f"{where}: {part} is {_described(number)}: give one number, such as values.sum()")


def _check_rewards(where: str, rewards: Any, present: Tensor) -> None:
    shape = list(rewards.shape) if isinstance(rewards, Tensor) else []
    # An objective may leave out the last responses: KTO's mismatched ones have no reward.
    if len(shape) != 2 or shape[0] != len(present) or shape[1] > present.shape[1]:
        raise ValueError(
            f"{where} is {_described(rewards)}: give one number for each response, [prompts, responses] = "
            f"{list(present.shape)}"
        )


def _what_there_was(objective: Objective, out: Outputs, batch: Batch) -> str:
    """What an objective could read, for the note on an error of its own."""
    given = [f"out.{name} {list(value.shape)}" for name, value in vars(out).items() if value is not None]
    columns = [f"batch.{name} {list(column.shape)}" for name, column in batch.items()]
    return (
        f"{type(objective).__name__}.loss(out, batch) was given {', '.join(given)} (others are None unless `wants` "
        f"names them) and {', '.join(columns)} (`needs` adds others, such as ref_logps for 'reference')"
    )


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"

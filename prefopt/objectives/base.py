"""What a method has to say: `Objective`, whose `loss` turns a model's outputs on a batch into terms and metrics.

An objective computes with tensors alone; models, tokenizers and steps are the trainer's. To add a method, add one file
to this folder, or write it anywhere and name it "my_package.my_method:name" (`load`).
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from types import ModuleType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..batch import Batch, Outputs
from ..utils.extensions import load_module
from ..utils.names import did_you_mean
from ._renamed_members import keep_old_names

OLD_NAMES = {"best-of": "sft"}
"""Objectives whose names have changed: old name -> new name."""


class Term(NamedTuple):
    """One addend of a loss, as a sum over units that the trainer divides by how many units there are.

    Args:
        total: the SUM over this batch: a tensor with one number.
        unit: what it sums over, a name in `Objective.sizes`, such as "prompts", "responses" or "tokens".
        weight: what the mean is multiplied with in the loss.
    """

    total: Tensor
    unit: str
    weight: float = 1.0


@dataclass(frozen=True)
class Metric:
    """A number to log, which the trainer puts together over micro-batches and processes.

    Args:
        total: a sum, or an extreme; one number.
        count: how many values the sum has; of an extreme, 0 where there was none.
        reduce: "mean" divides sums by counts, "sum" does not, "min" and "max" take the extreme.
        minus: the name of a metric whose value is subtracted; where there is none of it, there is none of this one.
    """

    total: Tensor
    count: Tensor
    reduce: Literal["mean", "sum", "min", "max"] = "mean"
    minus: str | None = None


@dataclass(frozen=True)
class Loss:
    """What `Objective.loss` returns: the terms and metrics of one micro-batch.

    Terms are sums with units, because only the trainer can count a unit over the whole optimizer step and all ranks:
    a mixture of a mean over pairs and a mean over tokens then does not depend on how the step was split. Metrics are
    sums with counts for the same reason.

    Args:
        terms: the addends of the loss, by the names under which they are logged.
        metrics: what else is logged, by name.
        rewards: [G, K], detached: what a user's `compute_metrics` receives with the log-probs.
    """

    terms: Mapping[str, Term]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    rewards: Tensor | None = None

    def reduced(self, units: Mapping[str, Tensor]) -> Tensor:
        """Add up the terms, each divided by how many of its units there are.

        Args:
            units: how many there are of each unit, over the whole step.

        Returns:
            The loss, one number.
        """
        return sum(
            (t.weight * t.total / units[t.unit].clamp(min=1e-9) for t in self.terms.values()), start=torch.zeros(())
        )


IMPLIED = {
    "policy": frozenset({"logps"}),
    "scorer": frozenset({"scores"}),
    "actor-critic": frozenset({"logps", "values"}),
}
"""The outputs that `trains` implies."""


class Objective(ABC):
    """A training method: what it needs of the trainer and of a model, and the loss that it computes from that.

    Subclasses are keyword-only dataclasses whose fields are the method's hyperparameters; everything but `loss` has a
    default. The object is its configuration: it prints, compares and serialises as its fields, which cannot be changed
    once they are set. `needs`, `wants` and the flags below may be properties that depend on the fields.

    A method in which the loss of one row depends on other rows of the optimizer step sets `cross_batch`. The trainer
    then calls `gather_statistics` on every micro-batch, `apply_statistics` once on all of it together, adds the columns
    that this returns to the micro-batches, and only then calls `loss`.
    """

    trains: Literal["policy", "scorer", "actor-critic"] = "policy"
    """What is trained: a model with log-probs, a model with a reward head, or a policy and a critic of its values."""
    on_policy: bool = False
    """It learns from responses just sampled: a trainer calls `compute_advantages` before `loss`, see `PPO`."""
    needs: frozenset[str] = frozenset()
    """What the trainer must provide: "reference" (adds `ref_logps`), "mismatched" (adds one response to each row: the
    answer to another row's prompt), "label" (rows of one response and a label, which pairs are split into), "scorer"
    (scores the responses sampled from the policy)."""
    wants: frozenset[str] = frozenset()
    """Outputs beyond the log-probs or scores that `trains` implies, by their names in `Outputs`."""
    cross_batch: bool = False
    """The loss of one row depends on other rows of the step: the trainer gathers and applies statistics before it."""
    statistics_need_outputs: bool = True
    """`gather_statistics` reads the model's outputs. If not, a step in several micro-batches needs no pass before."""
    responses: int | None = None
    """How many responses a row must have; None for any number, 1 for the best of however many there are."""
    free: frozenset[str] = frozenset()
    """Names of fields that may have other values when a run is resumed: nothing that is learnt depends on them."""
    fewest: int = 0
    """How many responses a row must have at least, where `responses` asks for no number."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        keep_old_names(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if missing := sorted(cls.__abstractmethods__):
            own = sorted({name for kind in cls.__mro__ for name in vars(kind)} - set(dir(Objective)))
            methods = [name for name in own if callable(getattr(cls, name)) and not name.startswith("_")]
            has = f"it has {', '.join(methods)}" if methods else "it has no method of its own"
            raise TypeError(
                f"{cls.__name__} has no method {', '.join(missing)}: write `def loss(self, out, batch)`, which returns "
                f"a Loss ({has})"
            )
        if (args or kwargs) and cls.__init__ is object.__init__:
            raise TypeError(
                f"{cls.__name__} takes no arguments: write @dataclass(frozen=True, kw_only=True) above the class, so "
                "that its annotated fields are arguments"
            )
        return super().__new__(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            raise FrozenInstanceError(
                f"{type(self).__name__} is a value: use dataclasses.replace(..., {name}={value!r})"
            )
        super().__setattr__(name, value)

    def rows_lack(self, columns: frozenset[str]) -> str | None:
        """Say what the settings read that rows do not have; a trainer asks before it loads a model.

        Args:
            columns: the names of the columns in which some row has a value.

        Returns:
            A message that says what to do, or None where nothing is missing.
        """
        return None

    def rows_differ(self, columns: frozenset[str], held_out: frozenset[str]) -> str | None:
        """Say by which column losses on held-out rows would be others than on the rows that are trained on.

        Args:
            columns, held_out: as of `rows_lack`.

        Returns:
            A message that says what to do, or None where both are the same.
        """
        return None

    @property
    def outputs(self) -> frozenset[str]:
        """Names of all fields of `Outputs` that `loss` reads."""
        return self.wants | IMPLIED[self.trains]

    def outputs_on(self, batch: Batch) -> frozenset[str]:
        """Names of the fields of `Outputs` that `loss` reads on this batch: `outputs`, or fewer."""
        return self.outputs

    @property
    def offline(self) -> Objective:
        """The objective that trains on a dataset's rows: this one, unless it is about how rows are generated."""
        return self

    @property
    def unpaired(self) -> Objective:
        """The objective that trains on unpaired rows, which have one response and a label: this one if it needs labels.

        Raises:
            ValueError: there is none.
        """
        if "label" in self.needs:
            return self
        raise ValueError(
            f"{type(self).__name__} does not learn from labels, and these rows have one response and a label that says "
            "whether it is a good one: take KTOTrainer, or leave out the bad ones and the column `label`"
        )

    def sizes(self, batch: Batch) -> dict[str, Tensor]:
        """Count the units that `Term.unit` may name.

        Returns:
            How many of each unit this batch holds: scalars, by the unit's name.
        """
        present, lengths = batch.present, batch.lengths
        return {
            "prompts": present.any(-1).sum(),
            "responses": present.sum(),
            "tokens": lengths.sum(),
            "best_tokens": lengths[:, 0].sum(),
        }

    def init_state(self) -> dict[str, Tensor]:
        """What the method remembers from step to step, before the first one; the trainer keeps and checkpoints it."""
        return {}

    def gather_statistics(self, out: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Compute what the losses of other rows depend on. Called without gradient, where `cross_batch` is set.

        Args:
            out: the model's outputs on the batch; empty where `statistics_need_outputs` is not set.
            batch: one micro-batch.

        Returns:
            Columns [G, ...], one entry for each row of the batch.
        """
        return {}

    def apply_statistics(
        self, gathered: dict[str, Tensor], state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Turn the statistics of all rows of a step into columns that each row's loss reads.

        Args:
            gathered: what `gather_statistics` returned for every present row of the optimizer step on all ranks (or of
                the whole evaluation set): columns [N, ...].
            state: what the method remembers of earlier steps.

        Returns:
            Columns [N, ...] to add to the batches, in the same order of rows, and the next state.
        """
        return {}, state

    @abstractmethod
    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Compute the loss of one micro-batch.

        Args:
            out: the model's outputs, with the fields that `outputs_on(batch)` names.
            batch: one micro-batch, with the columns that `needs` and `apply_statistics` add.

        Returns:
            Sums over the rows of `batch`. Absent rows, all of whose masks are False, must add nothing.
        """


def mean_of(values: Tensor, present: Tensor) -> Metric:
    """A metric for the mean of `values` where `present` is True; both of one shape."""
    return Metric(values.detach().masked_fill(~present, 0.0).sum(), present.sum())


def registry() -> dict[str, Objective]:
    """Every name that the files of this folder declare in `NAMES`, with the objective that it stands for."""
    package = importlib.import_module(__package__)
    files = [info.name for info in pkgutil.iter_modules(package.__path__) if info.name != "base"]
    return {
        name: objective
        for file in files
        for name, objective in _names(importlib.import_module(f"{__package__}.{file}")).items()
    }


def load(name: str) -> Objective:
    """Look an objective up by its name, or by the dotted path of the module that declares it.

    A module declares `NAMES = {"my-method": MyMethod()}`; "module:my-method" loads it, wherever the module is, the
    current folder included, and "package.module" is enough where it declares only one. "module:MyMethod" is the object
    or class of that name.

    Raises:
        ValueError: unknown name (with the nearest known ones), or a module that declares none or several.
    """
    known = registry()
    if name in OLD_NAMES:
        message = f"the objective {name!r} is now called {OLD_NAMES[name]!r}; the old name goes in 0.3"
        warnings.warn(message, FutureWarning, stacklevel=2)
        return known[OLD_NAMES[name]]
    if name in known:
        return known[name]
    path = module_of(name)
    if path is None:
        meant = f" {did_you_mean(name, known, most=3)}".rstrip()
        raise ValueError(f"unknown objective {name!r}:{meant} known are {', '.join(sorted(known))}")
    return _from_outside(path, name.partition(":")[2])


def module_of(name: str) -> str | None:
    """The user's module that `load` imports for this name; None for a name that needs none."""
    path, _, wanted = name.partition(":")
    return path if name not in registry() | OLD_NAMES and ("." in path or wanted) else None


def _names(module: ModuleType) -> dict[str, Any]:
    """What a module declares in NAMES.

    Raises:
        ValueError: it is no dict.
    """
    names = getattr(module, "NAMES", {})
    if not isinstance(names, dict):
        raise ValueError(
            f"{module.__name__}: NAMES is a {type(names).__name__}: write a dict of objectives by their names, such as "
            'NAMES = {"my-method": MyMethod()}'
        )
    return names


def _from_outside(path: str, wanted: str) -> Objective:
    """The objective of a user's module: the one that NAMES calls so, an object of that name, or the only one."""
    module = load_module(path, f"objective {path}:{wanted}".rstrip(":"))
    declared = _names(module)
    if wanted in declared:
        named = declared[wanted]
    elif not wanted and len(declared) == 1:
        named = next(iter(declared.values()))
    else:
        named = getattr(module, wanted, None)
    objective = named() if isinstance(named, type) and issubclass(named, Objective) else named
    if isinstance(objective, Objective):
        return objective
    if named is not None:
        raise ValueError(
            f"{path}:{wanted or next(iter(declared))} is a {_kind(named)} and no objective: write a subclass of "
            "Objective, whose method loss(self, out, batch) returns a Loss"
        )
    meant = f" {did_you_mean(wanted, declared)}".rstrip()
    raise ValueError(f"{path} declares NAMES {sorted(declared)}:{meant} name one as {path}:NAME")


def _kind(value: Any) -> str:
    return f"class ({value.__name__})" if isinstance(value, type) else type(value).__name__


keep_old_names(Objective)

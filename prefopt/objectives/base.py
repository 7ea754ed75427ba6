"""What an objective is: a frozen value that turns a model's outputs on a batch into a loss.

An objective knows tensors and nothing else: no model, no tokenizer, no trainer. Adding a method is adding one file to
this folder (or anywhere: `load("my_package.my_method")`).
"""

from __future__ import annotations

import importlib
import pkgutil
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


class Term(NamedTuple):
    """One addend of a loss: a SUM over units, which unit it sums over, and its weight."""

    total: Tensor
    unit: str
    weight: float = 1.0


@dataclass(frozen=True)
class Metric:
    """A number to log: a sum with its count, or an extreme (then `count` says whether there was anything)."""

    total: Tensor
    count: Tensor
    reduce: Literal["mean", "min", "max"] = "mean"


@dataclass(frozen=True)
class Loss:
    """Terms and metrics of one micro-batch.

    Terms are sums with units, because only the trainer can count a unit over the whole optimizer step and all ranks:
    a mixture of a mean over pairs and a mean over tokens then does not depend on how the step was split. Metrics are
    sums with counts for the same reason.
    """

    terms: Mapping[str, Term]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    rewards: Tensor | None = None  # [G, K], detached: what `compute_metrics` receives beside the log-probs

    def reduced(self, units: Mapping[str, Tensor]) -> Tensor:
        """The scalar loss, each term divided by how many of its units there are."""
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
    """Base of every method. Subclasses are final keyword-only dataclasses; everything but `loss` has a default.

    The object is its configuration: it prints, compares and serialises as its fields. `needs`, `wants` and the flags
    below belong to the instance and may be properties that depend on its fields.
    """

    trains: Literal["policy", "scorer", "actor-critic"] = "policy"
    """What it trains: a model with log-probs, one with a reward head, or a policy and a critic that says values."""
    on_policy: bool = False
    """It learns only from responses just sampled: a trainer calls its `experience` before `loss`, see `PPO`."""
    needs: frozenset[str] = frozenset()
    """What the trainer must provide: "reference" (adds `ref_logps`), "mismatched" (adds one response to each row: the
    answer to another row's prompt), "scorer" (scores the responses sampled from the policy)."""
    wants: frozenset[str] = frozenset()
    """Outputs beyond the log-probs or scores that `trains` implies, by their names in `Outputs`."""
    couples: bool = False
    """The loss of one row depends on other rows: `observe` and `couple` are called."""
    observes_outputs: bool = True
    """`observe` reads what the model says. If not, a step in several micro-batches needs no pass to know it first."""
    responses: int | None = None
    """How many responses a row must have; None for any number, 1 for the best of however many there are."""
    free: frozenset[str] = frozenset()
    """Fields that may be others when a run is resumed, since nothing that is learnt depends on them."""
    fewest: int = 0
    """How many responses a row must have at least, where `responses` asks for no number."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            raise FrozenInstanceError(
                f"{type(self).__name__} is a value: use dataclasses.replace(..., {name}={value!r})"
            )
        super().__setattr__(name, value)

    @property
    def outputs(self) -> frozenset[str]:
        """All fields of `Outputs` that `loss` reads."""
        return self.wants | IMPLIED[self.trains]

    def outputs_on(self, batch: Batch) -> frozenset[str]:
        """Those of them that `loss` reads on this batch."""
        return self.outputs

    @property
    def offline(self) -> Objective:
        """What trains on rows once they are there: itself, unless it is a way to make them."""
        return self

    def sizes(self, batch: Batch) -> dict[str, Tensor]:
        """How many of each unit this batch holds; the units that `Term.unit` may name."""
        present, lengths = batch.present, batch.lengths
        return {
            "prompts": present.any(-1).sum(),
            "responses": present.sum(),
            "tokens": lengths.sum(),
            "best_tokens": lengths[:, 0].sum(),
        }

    def init_state(self) -> dict[str, Tensor]:
        """What the method remembers from step to step; the trainer owns and checkpoints it."""
        return {}

    def observe(self, out: Outputs, batch: Batch) -> dict[str, Tensor]:
        """What other rows must know of these rows: columns [G, ...]. Called without gradient if `couples`."""
        return {}

    def couple(
        self, observed: dict[str, Tensor], state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Columns to add to the batch, and the next state.

        `observed` holds what `observe` said of every present row of the optimizer step on all ranks (or of the whole
        evaluation set); a returned column has the same number of rows, in the same order.
        """
        return {}, state

    @abstractmethod
    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Sums over the rows of `batch`; absent rows (all masks False) must contribute nothing."""


def mean_of(values: Tensor, present: Tensor) -> Metric:
    """Metric for the mean of `values` where `present` holds; both of one shape."""
    return Metric(values.detach().masked_fill(~present, 0.0).sum(), present.sum())


def registry() -> dict[str, Objective]:
    """Every name that the files of this folder answer to, with the objective it stands for."""
    package = importlib.import_module(__package__)
    files = [info.name for info in pkgutil.iter_modules(package.__path__) if info.name != "base"]
    return {
        name: objective
        for file in files
        for name, objective in _names(importlib.import_module(f"{__package__}.{file}")).items()
    }


def load(name: str) -> Objective:
    """The objective with this name, or the one that a module at this dotted path declares.

    A module declares `NAMES = {"my-method": MyMethod()}`; "module:my-method" loads it, wherever the module is, the
    current folder included, and "package.module" is enough where it declares only one. "module:MyMethod" is the object
    or class of that name.

    Raises:
        ValueError: unknown name (with the nearest known ones), or a module that declares none or several.
    """
    known = registry()
    if name in known:
        return known[name]
    path, _, wanted = name.partition(":")
    if "." not in path and not wanted:
        meant = f" {did_you_mean(name, known, most=3)}".rstrip()
        raise ValueError(f"unknown objective {name!r}:{meant} known are {', '.join(sorted(known))}")
    return _from_outside(path, wanted)


def checked_loss(objective: Objective, value: Any) -> Loss:
    """What an objective's `loss` returned, if it is a `Loss` whose terms can be added up.

    Raises:
        TypeError: it is something else, such as the tensor that a training loop of one's own would want; the message
            says how to write it.
    """
    name = type(objective).__name__
    if not isinstance(value, Loss):
        raise TypeError(
            f"{name}.loss returned {_described(value)}, not a Loss: return Loss({{'{name.lower()}': Term(total, "
            "'prompts')}), where total is the SUM over rows and 'prompts' says what it sums over"
        )
    for key, term in value.terms.items():
        if not isinstance(term, Term) or not isinstance(term.total, Tensor) or term.total.numel() != 1:
            given = _described(term.total if isinstance(term, Term) else term)
            raise TypeError(
                f"{name}.loss: the term {key!r} is {given}: give Term(total, unit), where total is a tensor with one "
                "number, the SUM over rows"
            )
    return value


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"


def _names(module: ModuleType) -> dict[str, Objective]:
    return getattr(module, "NAMES", {})


def _from_outside(path: str, wanted: str) -> Objective:
    """The objective of a user's module: the one that NAMES calls so, an object of that name, or the only one."""
    module = load_module(path, f"objective {path}:{wanted}".rstrip(":"))
    declared = _names(module)
    if wanted in declared:
        return declared[wanted]
    if not wanted and len(declared) == 1:
        return next(iter(declared.values()))
    found = getattr(module, wanted, None)
    found = found() if isinstance(found, type) and issubclass(found, Objective) else found
    if isinstance(found, Objective):
        return found
    meant = f" {did_you_mean(wanted, declared)}".rstrip()
    raise ValueError(f"{path} declares NAMES {sorted(declared)}:{meant} name one as {path}:NAME")

"""What a trainer notes of its own run for the doctor, and what it says at the start and at the end.

doctor.json    the figures that no log has, and the log: `run_files.py` reads it, and whatever else a run leaves
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerState

from ..data.records import DataError
from ..data.stop_tokens import stop_token_ids
from ..doctor.checks import AT_START, Sickness, diagnose
from ..doctor.run import Run
from ..models.critic import parameter_groups
from ..models.precision import training_dtype
from ..models.reference import FrozenModel
from ..models.weights import broken_weights
from ..scoring.combine import reward_models
from ..utils import files
from ..utils.distributed import rank
from .config import PreferenceConfig
from .identity import objective_description, plain
from .row_figures import all_the_same, row_figures
from .run_files import FILE, read_facts, read_run
from .schedule import schedule_of
from .step import StepRunner

logger = logging.getLogger(__name__)

SPOTS = 256
"""Of each weight tensor so many numbers, evenly spread, are held against what they were."""
FORMAT = 1
NAMED = 3
"""Broken weights that a message names."""

Spots = dict[str, list[Tensor]]


class Health:
    """Watches one trainer, at no cost for its steps.

    Args:
        model: gives the model as the trainer has it now.
        tokenizer: says on which ids responses end.
        encoding: what encoding did to the training rows, under the names of `prefopt.data.row_encoder.COUNTS`; of rows
            that came encoded nothing.
    """

    def __init__(
        self,
        args: PreferenceConfig,
        step: StepRunner,
        model: Callable[[], Any],
        tokenizer: Any,
        encoding: Mapping[str, int],
    ):
        self.args, self.step, self.tokenizer, self.encoding = args, step, tokenizer, encoding
        self._model = model
        self.folder = Path(str(args.output_dir))
        self.facts: dict[str, Any] = {}
        self.told: set[str] = set()
        """Names of sicknesses that were said already."""
        self._before: Spots = {}
        self._began: int | None = None
        """The step after which this part of the run began, None while it has not."""

    # ---- the start -------------------------------------------------------------------------------------------------

    def begin(self, rows: Any, held_out: Any, rows_per_step: int, resumed: bool) -> None:
        """Note what is known before the first step, and say what is wrong with it.

        Args:
            rows, held_out: the training and evaluation data.
            rows_per_step: of an optimizer step, on all ranks.
            resumed: the run goes on with what is in its folder.

        Raises:
            DataError: of no row anything can be learnt.
        """
        objective, model = self.step.objective, self._model()
        kept = read_facts(self.folder).get("first") if resumed else None
        self.told = {"collapse"} if objective.on_policy else set()  # which is said when it happens
        self.facts = {
            "objective": objective_description(objective),
            "has_reference": "reference" in objective.needs,
            "settings": {
                "learning_rate": self.args.learning_rate,
                "max_length": self.args.max_length,
                "rows_per_step": rows_per_step,
                "reference_dtype": self.args.reference_dtype,
                "held_out": len(held_out) if held_out is not None and not isinstance(held_out, Mapping) else None,
            },
            "dtype": str(training_dtype(model)).removeprefix("torch."),
            "rows": row_figures(rows, objective, self.tokenizer, self._stops(model)),
            "encoding": dict(self.encoding),
            "first": kept,
        }
        self._check_pairs(rows)
        self._before, self._began = {}, None
        self._tell(diagnose(Run(facts=self.facts), AT_START))

    def _stops(self, model: Any) -> set[int]:
        return set(stop_token_ids(self.tokenizer, getattr(model, "generation_config", None)))

    def _check_pairs(self, rows: Any) -> None:
        seen = self.facts["rows"]
        if seen.get("pairs") and seen["same"] == seen["pairs"] and all_the_same(rows):
            raise DataError(
                f"all {len(rows):,} pairs have two responses that are the same ids, at max_length="
                f"{self.args.max_length}, and nothing can be learnt from them: raise max_length if they are cut before "
                "they differ, or give other rows"
            )

    # ---- the steps -------------------------------------------------------------------------------------------------

    def go_on_from(self, number: int, steps: int, own_schedule: bool) -> None:
        """The weights are those after step `number` of `steps`, and training begins.

        Args:
            own_schedule: a user's own, of which nothing is known.
        """
        self._before, self._began = _spots(self._model()), number
        skipped = own_schedule or self.step.objective.on_policy  # whose source knows when its policy begins
        rate = None if skipped else schedule_of(self.args, steps, self.args.learning_rate)
        if rate is not None and number < steps and not any(rate(step) > 0 for step in range(number, steps)):
            self.facts["settings"]["idle"] = steps - number
            self._tell(diagnose(Run(facts=self.facts), AT_START))

    def stepped(self, number: int) -> None:
        """Note the metrics of the very first step, before they are logged with others'."""
        if number != 1 or self.facts.get("first") is not None or not self.facts:
            return
        self.facts["first"] = self.step.metrics.peek()
        self._write([])

    @contextmanager
    def watching(self, state: Callable[[], TrainerState]) -> Iterator[None]:
        """Note why a run stopped whose gradients are not finite: its log would else be that of a killed one."""
        try:
            yield
        except FloatingPointError as error:
            self.facts["stopped"] = str(error)
            self._write(state().log_history)
            raise

    # ---- the end ---------------------------------------------------------------------------------------------------

    def end(self, state: TrainerState) -> None:
        """Note what came of the run, and say what is wrong with it."""
        if self._began is not None and state.global_step > self._began:
            model = self._model()
            self.facts["moved"] = _moved(self._before, _spots(model))
            self.facts["broken"] = list(broken_weights(model.named_parameters()))
        self._before = {}
        self.examine(state)

    def examine(self, state: TrainerState) -> None:
        """Say what is wrong with the run by what is known now, and was not said before."""
        self._write(state.log_history)
        if rank() == 0 and self.facts:
            self._tell(diagnose(replace(read_run(self.folder), logs=state.log_history)))

    def _tell(self, found: Iterable[Sickness]) -> None:
        for sickness in found:
            if sickness.name not in self.told and rank() == 0:
                logger.warning("%s", sickness.text())
            self.told.add(sickness.name)

    def _write(self, logs: list[dict[str, Any]]) -> None:
        if rank() == 0 and self.facts:
            record = {"format": FORMAT, "facts": self.facts, "logs": logs}
            files.replace(self.folder / FILE, json.dumps(_finite(plain(record)), ensure_ascii=False) + "\n")


def _finite(value: Any) -> Any:
    """JSON has neither NaN nor infinity: both become null."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@torch.no_grad()
def _spots(model: Any) -> Spots:
    """Some numbers of each weight that trains, under "policy" and "critic"."""
    return {what: [_spread(p).clone() for p in parameters] for what, parameters in parameter_groups(model).items()}


def _spread(parameter: Tensor) -> Tensor:
    local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    flat = local.detach().flatten()
    return flat[:: max(1, flat.numel() // SPOTS)]


def _moved(before: Spots, after: Spots) -> dict[str, float]:
    """Of each model that trains, the share of its weights that are others now."""
    shares = {}
    for what, weights in before.items():
        pairs = [(old, new) for old, new in zip(weights, after[what], strict=True) if old.shape == new.shape]
        total = sum(len(old) for old, _ in pairs)
        if total:
            shares[what] = sum(int((old != new).sum()) for old, new in pairs) / total
    return shares


def check_weights(what: str, model: Any) -> None:
    """Refuse a model whose weights are broken before anything is trained.

    Args:
        what: how a message calls it.

    Raises:
        ValueError: it holds numbers that are not finite; the message names the first tensors.
    """
    broken = broken_weights(model.named_parameters())
    if not broken:
        return
    first = "; ".join(f"{name}: {words}" for name, words in list(broken.items())[:NAMED])
    more = f"; and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    raise ValueError(
        f"{what} has weights that are not finite as it was loaded ({first}{more}): its file is damaged, or a run that "
        "had diverged saved it. No learning rate mends that: load another copy or an earlier checkpoint. Even a row "
        "that no text reaches would be saved with what is trained"
    )


def check_models(policy: Any, reference: Any, scorer: Any) -> None:
    """Refuse a policy, a reference or a reward model that is broken as it was loaded.

    Raises:
        ValueError: some of its weights are not finite.
    """
    models = {"the model": policy}
    if isinstance(reference, FrozenModel):
        models["the reference"] = reference.model
    models |= {f"the scorer {each.name!r}": each.model for each in reward_models(scorer)}
    for what, model in models.items():
        check_weights(what, model)

"""Evaluates a policy while it trains: at equal distances, by responses to validation prompts, for the learning curve.

The evaluation changes nothing of the training: it is not counted as the method's compute, and its random numbers are
its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ...candidates.evaluate import standard_error
from ...data.records import Messages
from ...utils import files, jsonl
from ...utils.distributed import gathered
from ..measure import ResponseEvaluator
from .cost import Spent

FILE = "curve.jsonl"
METRICS = ("score", "gold", "kl", "length")
STREAM = (-3,)
_ITERATION = re.compile(r"iteration-(\d+)$")


class ValidationCurve(TrainerCallback):
    """Appends a line to `curve.jsonl` for each point of the learning curve.

    Args:
        points: how many points there are, the one before the first step not counted.
        iterations: of a method that trains in iterations; its callbacks hear of each training.
        spent: what the training has cost so far.
    """

    def __init__(
        self,
        folder: Path,
        evaluator: ResponseEvaluator,
        prompts: Sequence[Messages],
        points: int,
        iterations: int,
        spent: Spent,
    ):
        self.path, self.evaluator, self.prompts = folder / FILE, evaluator, list(prompts)
        self.points, self.iterations, self.spent = points, iterations, spent
        self.seed, self._next_point = 0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        share = _share_done(args, state, self.iterations)
        kept = [line for line in jsonl.read(self.path) if line["share"] <= share]
        if state.is_world_process_zero:
            jsonl.replace(self.path, kept)  # without the lines of a run that was killed after its last checkpoint
        self._next_point = kept[-1]["look"] + 1 if kept else 0
        self._evaluate_if_due(args, state, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._evaluate_if_due(args, state, kwargs["model"])

    def _evaluate_if_due(self, args: Any, state: Any, policy: Any) -> None:
        share = _share_done(args, state, self.iterations)
        point = int(share * self.points + 1e-9)
        if point < self._next_point:
            return
        self._next_point = point + 1
        step = _iteration(args) * state.max_steps + state.global_step
        line = {"look": point, "step": step, "share": share, "flops": sum(gathered(self.spent.tally.total))}
        made = {**line, **self._evaluate(policy)}  # by all ranks, of which each may hold a part of the policy
        if state.is_world_process_zero:
            jsonl.append(self.path, [made])

    def _evaluate(self, policy: Any) -> dict[str, dict[str, float]]:
        """The means of the metrics that are known, and their standard errors over prompts."""
        with self.spent.excluded():
            responses = self.evaluator.evaluate(policy, self.prompts, k=1, seed=self.seed)
        known = {name: responses[name].to_numpy() for name in METRICS if not responses[name].isna().any()}
        means = {name: float(values.mean()) for name, values in known.items()}
        errors = {name: standard_error(values) for name, values in known.items() if len(values) > 1}
        return {"values": means, "errors": errors}


class ProgressFile(TrainerCallback):
    """Writes the share of a training that is done into `progress.json`, for the process that shows progress."""

    def __init__(self, folder: Path, iterations: int):
        self.path, self.iterations, self._written = folder / "progress.json", iterations, -1.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        share = _share_done(args, state, self.iterations)
        if share - self._written >= 0.01 or share >= 1:
            self._written = share
            if state.is_world_process_zero:
                files.replace(self.path, f"{share:.4f}")


def _share_done(args: Any, state: Any, iterations: int) -> float:
    """The share of the whole training that is done, from 0 to 1."""
    return (_iteration(args) + state.global_step / max(1, state.max_steps)) / iterations


def _iteration(args: Any) -> int:
    """The number of the training among a method's iterations, by its folder."""
    matched = _ITERATION.search(str(args.output_dir))
    return int(matched[1]) if matched else 0

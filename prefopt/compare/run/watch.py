"""Looks at a policy while it trains: responses to validation prompts at equal distances. Changes nothing of it.

What it measures is not counted as the method's compute, and its random numbers are its own.
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
from ..measure.responses import Measure
from .cost import Spent

FILE = "curve.jsonl"
WATCHED = ("score", "gold", "kl", "length")
STREAM = (-3,)
_ITERATION = re.compile(r"iteration-(\d+)$")


class Watch(TrainerCallback):
    """Appends a line for each look to `curve.jsonl`.

    Args:
        points: looks, the one before the first step not counted.
        iterations: of a method that trains in iterations; its callbacks hear of each training.
        spent: what the training has cost so far.
    """

    def __init__(
        self, folder: Path, measure: Measure, prompts: Sequence[Messages], points: int, iterations: int, spent: Spent
    ):
        self.path, self.measure, self.prompts = folder / FILE, measure, list(prompts)
        self.points, self.iterations, self.spent = points, iterations, spent
        self.seed, self._next = 0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = self._share(args, state)
        kept = [line for line in jsonl.read(self.path) if line["share"] <= now]
        jsonl.replace(self.path, kept)  # of a run that was killed after its last checkpoint
        self._next = kept[-1]["look"] + 1 if kept else 0
        self._look(args, state, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._look(args, state, kwargs["model"])

    def _look(self, args: Any, state: Any, policy: Any) -> None:
        """If it is time."""
        share = self._share(args, state)
        look = int(share * self.points + 1e-9)
        if look < self._next:
            return
        self._next = look + 1
        flops = self.spent.tally.total
        with self.spent.aside():
            found = self.measure.table(policy, self.prompts, k=1, seed=self.seed)
        values = {name: found[name].to_numpy() for name in WATCHED if not found[name].isna().any()}
        line: dict[str, Any] = {"look": look, "step": self._step(args, state), "share": share, "flops": flops}
        line["values"] = {name: float(each.mean()) for name, each in values.items()}
        line["errors"] = {name: standard_error(each) for name, each in values.items() if len(each) > 1}
        jsonl.append(self.path, [line])

    def _share(self, args: Any, state: Any) -> float:
        return (self._iteration(args) + state.global_step / max(1, state.max_steps)) / self.iterations

    def _step(self, args: Any, state: Any) -> int:
        return self._iteration(args) * state.max_steps + state.global_step

    @staticmethod
    def _iteration(args: Any) -> int:
        found = _ITERATION.search(str(args.output_dir))
        return int(found[1]) if found else 0


class Report(TrainerCallback):
    """Writes how far a training is, for whoever waits for it."""

    def __init__(self, folder: Path, iterations: int):
        self.path, self.iterations, self._said = folder / "progress.json", iterations, -1.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        share = (Watch._iteration(args) + state.global_step / max(1, state.max_steps)) / self.iterations
        if share - self._said >= 0.01 or share >= 1:
            self._said = share
            files.replace(self.path, f"{share:.4f}")

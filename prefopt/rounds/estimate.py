"""What is left of a plan of rounds takes: responses by the plan, time and disk by what stages of the same kind took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import mean

from ..compare.plan import built
from ..compare.report import duration, size
from ..objectives.sampling_arguments import SamplingArguments
from ..tasks import Task, in_order
from .context import place_of
from .sections import Round
from .tasks import RoundTasks

MODELS = ("start", "reward", "train")
"""Kinds of stages that end with a model on disk."""
OPTIMIZER = 3
"""Sizes of a model in a training's checkpoint, beside the model that it ends with: weights, and Adam's two moments."""
PURPOSES = {
    "candidates": "to be labelled",
    "search": "to search temperatures",
    "generate": "to be selected from",
    "gatt": "under instructions",
    "evaluate": "to measure versions",
}
"""Kind of a stage that samples -> what its responses are for."""


@dataclass(frozen=True)
class Estimate:
    """What the stages that are not done will take.

    Args:
        stages: how many there are.
        responses: what responses are for -> how many; None where the rows say how many prompts there are. Those that a
            training samples itself, such as PPO's, are not counted.
        models: how many models will be written.
        seconds: of all stages one after another, if each takes what those of its kind took.
        bytes: on disk likewise; before any model is there, by the policy's weights.
        untimed: the kinds of stages of which none is done, so that their time is not in `seconds`.
    """

    stages: int
    responses: Mapping[str, int | None]
    models: int
    seconds: float
    bytes: int
    untimed: tuple[str, ...]

    def lines(self, free: int | None = None) -> list[str]:
        """For people; `free` is the disk space that there is, in bytes."""
        if not self.stages:
            return []
        counts = [f"{'all' if count is None else f'{count:,}'} {what}" for what, count in self.responses.items()]
        sampled = f"; responses: {', '.join(counts)}" if counts else ""
        lines = [f"to come: {self.stages} stages, {self.models} models{sampled}"]
        time = f"about {duration(self.seconds)}" if self.seconds else "unknown until a stage of each kind is done"
        if self.seconds and self.untimed:
            time = f"at least {duration(self.seconds)}, and that of the first {', '.join(self.untimed)}"
        disk = f"about {size(self.bytes)}" if self.bytes else "unknown until a model is there"
        there = "" if free is None else f" ({size(free)} free)"
        lines.append(f"time: {time}; disk: {disk}{there}")
        if free is not None and self.bytes > free:
            lines.append("! the disk has less room than that: free some, or give another output_dir")
        return lines


def estimate(tasks: RoundTasks, out: Path) -> Estimate:
    """What the stages of a plan that `out` does not hold will take."""
    every = in_order(tasks.report_tasks())
    done = [task for task in every if task.result(out) is not None]
    timed = {kind: [task for task in done if task.kind == kind] for kind in {task.kind for task in done}}
    left = [task for task in every if task.result(out) is None]
    models = sum(task.kind in MODELS for task in left)
    took = {kind: mean((task.result(out) or {})["wall"] for task in there) for kind, there in timed.items()}
    rooms = {kind: mean(room_of(task.folder(out)) for task in there) for kind, there in timed.items()}
    weights = _weights(tasks, out)
    # The stages that end with no model are small beside those that do, and are counted when one of them is there.
    room = sum(rooms.get(task.kind, weights if task.kind in MODELS else 0) for task in left)
    return Estimate(
        len(left),
        _responses(tasks, left),
        models,
        sum(took.get(task.kind, 0.0) for task in left),
        round(room + (OPTIMIZER * weights if models else 0)),
        tuple(sorted({task.kind for task in left} - took.keys())),
    )


def _responses(tasks: RoundTasks, left: list[Task]) -> dict[str, int | None]:
    counts: dict[str, int | None] = {}
    for task in left:
        if (what := PURPOSES.get(task.kind)) is not None:
            count, before = _count(tasks, task), counts.get(what, 0)
            counts[what] = None if count is None or before is None else before + count
    return counts


def _count(tasks: RoundTasks, task: Task) -> int | None:
    """How many responses a stage samples; None for as many as there are prompts."""
    if task.kind == "evaluate":
        return tasks.plan.evaluation.prompts * tasks.plan.evaluation.responses_per_prompt
    round: Round = tasks.rounds[getattr(task, "round", 1) - 1]
    if task.kind == "candidates":
        return 2 * round.prompts.label
    if task.kind == "gatt":
        return None  # one to each turn of each conversation
    assert round.sample is not None
    k = built(SamplingArguments, round.sample.settings, "sample").responses_per_prompt
    if task.kind == "search":
        return len(round.sample.temperatures) * round.sample.search_prompts * k
    return None if round.prompts.sample is None else round.prompts.sample * k


def _weights(tasks: RoundTasks, out: Path) -> int:
    """Bytes of the policy's weights in float32, in which it is trained and saved; 0 where they are not on this disk."""
    from safetensors import safe_open

    start = tasks.start
    folder = Path(tasks.plan.policy if start.result(out) is None else place_of(start, out)).expanduser()
    count = 0
    for path in folder.glob("*.safetensors") if folder.is_dir() else ():
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (no mapping)
                count += prod(file.get_slice(name).get_shape())
    return 4 * count


def room_of(folder: Path) -> int:
    """Bytes on disk below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())

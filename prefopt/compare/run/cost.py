"""Measures the cost of a task: FLOPs and tokens by purpose, time, memory and steps.

    with measured(folder) as spent:
        trainer.add_callback(spent)
        trainer.add_callback(Budget(spent.tally, flops=1e15))
        trainer.train(resume_from_checkpoint=...)
    spent.cost()

As a callback it puts what was spent so far into every checkpoint, from where a resumed run goes on: what was done
between a checkpoint and a kill is counted once, when it is done again. Between trainings, which a method that trains
in iterations has several of, `spent.json` in the folder holds it, with what will have been spent once responses or
scores that are about to be kept are in their file. It stays there: iterations that are done are not done again.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from ...utils import files
from ...utils.distributed import gathered
from ...utils.flop_counter import FlopCounter, count_flops, paused
from ...utils.hashing import Damaged, sealed, unsealed
from ...utils.jsonl import DamagedFile
from ..report import Cost

logger = logging.getLogger(__name__)

FILE = "spent.json"


class Spent(TrainerCallback, ExportableState):
    """The cost since `measured` began, also of processes that were killed. Each process of several has its own."""

    def __init__(self, path: Path | None = None):
        self.path = path
        self.tally = FlopCounter()
        self.steps = 0
        self.peak_memory: int | None = None
        self._begins: dict[str, Any] = {}
        """What was spent when each training began, by its folder."""
        self._killed: set[str] = set()
        """Trainings that an earlier process began, and this one has not."""
        self._began = self._now = _clocks()
        self._earlier = (0.0, 0.0)
        """Seconds, and seconds of the CPU, that processes before this one took."""
        if path is not None and path.is_file():
            saved = _read(path)
            begins = saved["begins"].items()  # an earlier version wrote whole paths
            self._begins = {self._place(name) if os.path.isabs(name) else name: then for name, then in begins}
            self._killed = set(self._begins)
            later = saved.get("next") or {"file": "", "bytes": math.inf}  # an earlier version knew none
            there = _size(path.parent / later["file"]) >= later["bytes"]
            self._restore(later["spent"] if there else saved["now"])
        self._kept = self._numbers()
        """Of what is in `spent.json`, or would be."""
        self.tally.keep = self._keep

    def cost(self, shared: Mapping[str, float] | None = None) -> Cost:
        """The cost so far, of all processes together; each has to call it. Seconds are this one's.

        Args:
            shared: FLOPs of stages that several methods use, by name.
        """
        numbers, *others = gathered(self._numbers())
        for other in others:
            for name in ("flops", "tokens"):
                every = numbers[name].keys() | other[name].keys()
                numbers[name] = {key: numbers[name].get(key, 0) + other[name].get(key, 0) for key in sorted(every)}
            numbers["cpu_seconds"] += other["cpu_seconds"]
            numbers["peak_memory"] = _larger(numbers["peak_memory"], other["peak_memory"])
        return Cost(**numbers, shared=dict(shared or {}))

    def update(self) -> None:
        """Read the clocks and the peak of memory up to now."""
        self._now, self.peak_memory = _clocks(), _larger(self.peak_memory, _peak_memory())

    @contextmanager
    def excluded(self) -> Iterator[None]:
        """Count what is done inside, such as an evaluation, neither as compute nor as time."""
        before = _clocks()
        with paused():
            yield
        now = _clocks()
        self._began = (self._began[0] + now[0] - before[0], self._began[1] + now[1] - before[1])

    # ---- as a callback ---------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        self.update()
        return {"args": {}, "attributes": {"spent": self._numbers()}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on from what a checkpoint holds, or from where a training began that begins again.

        Raises:
            ValueError: transformers would put a callback of its own making in the place of this one.
        """
        if args.restore_callback_states_from_checkpoint:
            raise ValueError(
                "restore_callback_states_from_checkpoint=True would count in another object than this one: leave it "
                "off, Spent reads its part of a checkpoint by itself"
            )
        name, place = type(self).__name__, self._place(str(args.output_dir))
        if state.global_step and name in state.stateful_callbacks:
            self._restore(state.stateful_callbacks[name]["attributes"]["spent"])
        elif state.global_step:
            logger.warning("step %d was reached without counting: what it took is not known", state.global_step)
        elif place in self._killed:
            self._restore(self._begins[place])
        state.stateful_callbacks.setdefault(name, self.state())  # transformers writes only under names that are there
        self._killed.discard(place)
        if not state.global_step:
            self._begins[place] = self._numbers()
        self._write(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps += 1

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.update()
        self._write(state)

    def _place(self, folder: str) -> str:
        """A training's folder as `spent.json` knows it, which may be moved with the folder that it is in."""
        return folder if self.path is None else os.path.relpath(folder, self.path.parent)

    # ---- what is kept ----------------------------------------------------------------------------------------------

    def _numbers(self) -> dict[str, Any]:
        times = zip(self._earlier, self._now, self._began, strict=True)
        seconds, cpu_seconds = (before + now - began for before, now, began in times)
        counts = {"flops": dict(self.tally.flops), "tokens": dict(self.tally.tokens), "steps": self.steps}
        return {**counts, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_memory": self.peak_memory}

    def _write(self, state: Any) -> None:
        """Keep what was counted, for a run that goes on after a kill."""
        if self.path is None or not state.is_world_process_zero:
            return
        self._kept = self._numbers()
        self._replace(self.path, {"now": self._kept})

    def _keep(self, path: Path, size: int) -> None:
        """Keep what will have been spent once a file has so many bytes: a kill may come before it has."""
        if self.path is None:
            return
        self.update()
        file = os.path.relpath(path, self.path.parent)
        numbers = self._numbers()
        self._replace(self.path, {"now": self._kept, "next": {"file": file, "bytes": size, "spent": numbers}})
        self._kept = numbers

    def _replace(self, path: Path, record: Mapping[str, Any]) -> None:
        files.replace(path, sealed({"of": path.parent.name, "begins": self._begins, **record}))

    def _restore(self, then: Mapping[str, Any]) -> None:
        """In the place of what was counted in this process, which that one did too; but time is spent."""
        self.tally.restore(then["flops"], then["tokens"])
        self.steps, self.peak_memory = then["steps"], _larger(self.peak_memory, then["peak_memory"])
        self._earlier = max(self._earlier, (then["seconds"], then["cpu_seconds"]))


class Budget(TrainerCallback):
    """Ends training with the optimizer step in which a tally reaches so many FLOPs, for all purposes together.

    It ends the training that it is passed to: a method that trains in iterations goes on with the next.

    Raises:
        ValueError: a budget that leaves nothing for training.
    """

    def __init__(self, tally: FlopCounter, flops: float):
        if not flops > 0:
            raise ValueError(f"a budget of {flops:.3g} FLOPs leaves nothing for training: raise it")
        self.tally, self.flops = tally, flops

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if (total := self.tally.total) >= self.flops:
            step = state.global_step
            logger.info("training ends at step %d: %.3g FLOPs of a budget of %.3g are spent", step, total, self.flops)
            control.should_training_stop = True


@contextmanager
def measured(folder: Path | None = None) -> Iterator[Spent]:
    """Measure what is done inside. Without a GPU the peak of memory is the whole process's, with what it did before.

    Args:
        folder: of this work alone. Without it, what was done between trainings does not survive a kill.

    Raises:
        DamagedFile: the folder's `spent.json` is not what was written.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux forgets the peak so far; elsewhere it is that of all that the process did
        Path("/proc/self/clear_refs").write_text("5")
    spent = Spent(None if folder is None else folder / FILE)
    with count_flops(spent.tally):
        try:
            yield spent
        finally:
            spent.update()


def _clocks() -> tuple[float, float]:
    return time.monotonic(), time.process_time()


def _peak_memory() -> int | None:
    """Bytes: on the GPU, if anything was there, else of this process."""
    if torch.cuda.is_available() and (allocated := torch.cuda.max_memory_allocated()):
        return allocated
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _read(path: Path) -> dict[str, Any]:
    try:
        saved = unsealed(path.read_bytes())
    except Damaged as error:
        raise DamagedFile(f"{path} is damaged ({error}): {_remedy(path)}") from error
    if saved.get("of", path.parent.name) != path.parent.name:  # an earlier version did not say
        raise DamagedFile(f"{path} is that of {saved['of']}: {_remedy(path)}")
    return saved


def _remedy(path: Path) -> str:
    return f"restore it, or delete {path.parent}, which is then made anew"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _larger(a: int | None, b: int | None) -> int | None:
    return max((each for each in (a, b) if each is not None), default=None)

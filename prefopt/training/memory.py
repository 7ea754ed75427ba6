"""What a training will need of memory at its peak, told before its first step; the batches that there is room for.

Weights, reference and optimizer lie there throughout. On top of them comes the largest of three moments: when the head
has made log-probs of all hidden states, while a backward pass turns activations into gradients, and when the optimizer
takes its step. See `models/memory.py` for how activations are found.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from ..data.batching import token_counts
from ..models.memory import Activations, Shape, activations, head_bytes
from ..models.reference import FrozenModel
from ..objectives.base import Objective
from ..utils.distributed import on_first
from .checkpoint import described, newest
from .config import AUTO, PreferenceConfig
from .source import Host

logger = logging.getLogger(__name__)

GIB = 2**30
MOMENTS = {
    "adamw_torch_8bit": 2.0,
    "adamw_torch_4bit": 1.0,
    "paged": 0.0,
    "8bit": 2.0,
    "adafactor": 0.0,
    "sgd": 0.0,
    "lion": 4.0,
    "rmsprop": 4.0,
    "adagrad": 4.0,
}
"""Bytes that an optimizer keeps for a weight of 32 bits, by a part of its name; Adam's 8 for all others. Paged ones
keep theirs in the memory of the host."""
ROOM = 0.9
"""Of the memory that is there, what a budget that is found may use: what is predicted is a tenth off at most times."""


@dataclass(frozen=True)
class Prediction:
    """Bytes at the peak of a training step, by what they are for.

    Args:
        available: those that are there for all of it; None where that is not known.
        shape: of the batch that needs the most.
    """

    weights: int
    reference: int
    optimizer: int
    gradients: int
    activations: int
    available: int | None
    shape: Shape

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, int]:
        """What there is of each kind, by its name."""
        names = ("weights", "reference", "optimizer", "gradients", "activations")
        return {name: getattr(self, name) for name in names}

    @property
    def fits(self) -> bool:
        """Whether there is as much, as far as that is known."""
        return self.available is None or self.total <= self.available

    def __str__(self) -> str:
        parts = [f"{name} {gib(size)}" for name, size in self.parts.items() if size]
        tokens = sum(self.shape.prompts) + self.shape.predicted
        there = "" if self.available is None else f"; {gib(self.available)} GiB are there"
        return (
            f"needs about {gib(self.total)} GiB of memory at its peak: {', '.join(parts)} (for the longest batch, of "
            f"{len(self.shape.prompts):,} rows and {tokens:,} tokens){there}"
        )


def gib(size: float) -> str:
    """Bytes as GiB, with three digits."""
    return f"{size / GIB:.3g}"


class Foresight:
    """Predicts the peak of one training, in one process that has all of its weights.

    Args:
        model: as it trains, not wrapped.
        reference: None where there is none, or none any more.
        autocast: what computations run in.
    """

    def __init__(
        self, args: PreferenceConfig, model: Any, objective: Objective, reference: Any, accelerator: Accelerator
    ):
        self.args, self.model, self.objective, self.accelerator = args, model, objective, accelerator
        self._reference = [reference.model] if isinstance(reference, FrozenModel) else []
        self._measured: Activations | None = None

    def of(self, shape: Shape) -> Prediction | None:
        """The prediction for steps whose largest micro-batch has this shape; None where it cannot be told."""
        found = self._activations(shape)
        if found is None:
            return None
        device = next(self.model.parameters()).device
        live, head, head_gradient = found.live(shape, device), 0, 0
        if self.objective.trains == "policy":
            head, head_gradient = head_bytes(self.model, shape, found.width, self._product())
        accumulated = self.args.gradient_accumulation_steps > 1
        gradients = sum(p.nbytes for p in self.model.parameters() if p.requires_grad)
        grown = gradients if accumulated else found.gradients + head_gradient
        moments = {
            "head": (live[found.forward - 1] + head, gradients if accumulated else 0),
            "backward": _at_most(live, grown),
            "optimizer": (0.0, gradients),
        }
        activated, with_gradients = max(moments.values(), key=sum)
        return Prediction(
            weights=stored([self.model]),
            reference=stored(self._reference),
            optimizer=self._optimizer(),
            gradients=int(with_gradients),
            activations=int(activated),
            available=self._available(),
            shape=shape,
        )

    def budget(self, rows: Any, asked: int) -> int:
        """The most tokens of a batch, prompts counted once, up to `asked`, for which there is room.

        Batches are taken to be made of rows such as the longest one, which is a batch of its own in any case.
        """
        costs = token_counts(rows)
        row, own = Shape.of([rows[int(costs.argmax())]]), int(costs.max())

        def fits(count: int) -> bool:
            found = self.of(Shape(row.prompts * count, row.responses * count))
            return found is None or found.available is None or found.total <= ROOM * found.available

        low, high = 1, max(1, asked // own)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        return asked if low == max(1, asked // own) else low * own

    def _activations(self, shape: Shape) -> Activations | None:
        """Of rows of one proportion, which is taken to be that of the first shape that was asked for."""
        if self._measured is None:
            whole = "scores" in self.objective.outputs
            self._measured = activations(self.model, shape, whole=whole, context=self.accelerator.autocast)
        return self._measured

    def _product(self) -> torch.dtype | None:
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision)

    def _optimizer(self) -> int:
        name = str(getattr(self.args.optim, "value", self.args.optim))
        each = next((size for part, size in MOMENTS.items() if part in name), 8.0)
        if "paged" in name and not torch.cuda.is_available():
            each = 2.0 if "8bit" in name else 8.0
        return int(sum(p.numel() * each * p.element_size() / 4 for p in self.model.parameters() if p.requires_grad))

    def _available(self) -> int | None:
        """What is free, and what the models hold that are there already."""
        device = next(self.model.parameters()).device
        free = free_bytes(device)
        return None if free is None else free + stored([self.model, *self._reference])


def _at_most(live: Any, gradients: Any) -> tuple[float, float]:
    """The largest sum of the two, in its parts."""
    total = live + gradients
    place = int(total.argmax())
    return float(live[place]), float(total[place] - live[place])


def stored(models: Iterable[nn.Module]) -> int:
    """Bytes of all weights and buffers of some models, those that are shared once."""
    tensors = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def free_bytes(device: torch.device) -> int | None:
    """Memory that this process can have in addition, None where that cannot be told."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return _free_of_the_machine() if device.type == "cpu" else None


def _free_of_the_machine() -> int | None:
    """Of the machine's memory, or of the share that this process is limited to."""
    lines = _text("/proc/meminfo").splitlines()
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limit, used = _text("/sys/fs/cgroup/memory.max").strip(), _text("/sys/fs/cgroup/memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        free.append(int(limit) - int(used))
    return min(free, default=None)


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def longest(rows: Any, args: PreferenceConfig, size: int) -> Shape:
    """The shape of the batch that needs the most: of the longest rows that may come together."""
    costs = token_counts(rows)
    order = costs.argsort(descending=True).tolist()
    if not isinstance(args.max_tokens_per_batch, int):
        return Shape.of([rows[number] for number in order[:size]])
    chosen: list[int] = []
    room = args.max_tokens_per_batch
    for number in order:
        if chosen and int(costs[number]) > room:
            break
        chosen.append(number)
        room -= int(costs[number])
    return Shape.of([rows[number] for number in chosen])


class MemoryForecast:
    """Says before a run's first step what it will need, and finds the batches that `max_tokens_per_batch="auto"` means.

    Of runs on several processes, and of rows that are generated as training goes, nothing is predicted.

    Args:
        host: the trainer.
        scorer: what scores the responses that a run generates.
    """

    def __init__(self, host: Host, scorer: Any):
        self.host, self.scorer = host, scorer
        self.predicted: Prediction | None = None

    def settle(self, resume_from: str | bool | None) -> None:
        """Replace `auto` in the arguments by a number: that with which the run was begun, where it goes on."""
        args, rows = self.host.args, self.host.train_dataset
        if args.max_tokens_per_batch != AUTO or self.scorer is not None or not len(rows or ()):
            return
        recorded = on_first(lambda: _recorded(Path(str(args.output_dir)), resume_from))
        if recorded is not None:
            args.max_tokens_per_batch = recorded
            return
        mean = float(token_counts(rows).double().mean())
        asked = max(1, round(mean * self.host.train_batch_size))
        foresight = self._foresight()
        try:
            found = asked if foresight is None else foresight.budget(rows, asked)
        except Exception as error:  # whatever a model does with short rows, a training is not to end with it
            found = asked
            _unpredicted(error)
        args.max_tokens_per_batch = found
        size, less = self.host.train_batch_size, asked / found
        why = (
            f"as per_device_train_batch_size={size} asks for"
            if less <= 1
            else f"for want of memory; gradient_accumulation_steps times {less:.2g} keeps the rows of a step"
        )
        logger.info(
            "max_tokens_per_batch=auto: %s tokens, about %.3g rows a batch, %s", f"{found:,}", found / mean, why
        )

    def tell(self, remedies: Callable[[], Sequence[str]]) -> None:
        """Say what the run needs; where that is more than there is, what would need less."""
        host, foresight = self.host, self._foresight() if self.host.args.predict_memory else None
        if foresight is None:
            return
        try:
            found = foresight.of(longest(host.train_dataset, host.args, host.train_batch_size))
        except Exception as error:  # whatever a model does with short rows, a training is not to end with it
            return _unpredicted(error)
        self.predicted = found
        if found is None:
            logger.info("the memory that this run needs cannot be predicted of this model")
        elif found.fits:
            logger.info("%s", found)
        else:
            smaller = (
                "a smaller max_tokens_per_batch"
                if host.args.max_tokens_per_batch
                else "a smaller per_device_train_batch_size"
            )
            logger.warning("%s, and so it may not fit. What needs less: %s", found, ", ".join([smaller, *remedies()]))

    def _foresight(self) -> Foresight | None:
        host, state = self.host, self.host.accelerator
        engine = state.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP)
        if self.scorer is not None or state.num_processes > 1 or engine or not len(host.train_dataset or ()):
            return None
        if {weight.device.type for weight in host.model.parameters()} != {host.args.device.type}:
            return None  # it is moved later, or is spread over devices
        if len({weight.device for weight in host.model.parameters()}) > 1:
            return None
        if host.args.activation_checkpointing and hasattr(host.model, "activation_checkpointing_enable"):
            settings: Any = host.args.activation_checkpointing_kwargs or {}
            check_by_layers(host.model, dict(settings))
        return Foresight(host.args, host.model, host.step.objective, host.step.reference, host.accelerator)


def _unpredicted(error: Exception) -> None:
    logger.warning("the memory that this run needs could not be predicted: %s: %s", type(error).__name__, error)


def check_by_layers(model: Any, settings: dict[str, Any]) -> None:
    """Switch activation checkpointing on, as Trainer does right after this."""
    own = {name: settings.pop(name) for name in ("every_n_layers", "offload") if name in settings}
    model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings or None, **own)


def _recorded(folder: Path, resume_from: str | bool | None) -> int | None:
    """With how many tokens a batch the run was begun that is gone on with."""
    if not resume_from:
        return None
    checkpoint = newest(folder, thorough=False) if resume_from is True else Path(str(resume_from))
    try:
        recorded = described(checkpoint).get("max_tokens_per_batch")
    except (OSError, ValueError):
        return None  # which is said where it is resumed from
    return recorded if isinstance(recorded, int) else None

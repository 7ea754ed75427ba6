"""Sums and counts of what is logged, over micro-batches and ranks. Never a mean of means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..objectives.base import Loss, Metric

ROWS = "train_rows/"
"""What encoding did to the training rows stands under names that begin so, beside the other metrics of a training."""
_FOLD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": torch.add,
    "sum": torch.add,
    "min": torch.minimum,
    "max": torch.maximum,
}


class MetricsAccumulator:
    """Collects metrics until `read`, which reduces them over ranks and starts anew."""

    def __init__(self) -> None:
        self._held: dict[str, Metric] = {}

    def add(self, metrics: Mapping[str, Metric]) -> None:
        """Fold in the metrics of one micro-batch, in float64 so that the order of batches does not matter."""
        for name, metric in metrics.items():
            new = replace(metric, total=exact(metric.total), count=exact(metric.count))
            held = self._held.get(name)
            self._held[name] = new if held is None else _fold(held, new)

    def mark(self) -> dict[str, Metric]:
        """What is collected so far, for `back_to`."""
        return dict(self._held)

    def back_to(self, mark: dict[str, Metric]) -> None:
        """Forget what was added since `mark`."""
        self._held = dict(mark)

    def peek(self) -> dict[str, float]:
        """Every metric as far as this process has it, of which nothing is taken away."""
        return {name: _value(metric) for name, metric in self._held.items() if metric.count > 0 and not metric.minus}

    def read(self) -> dict[str, float]:
        """Every metric over all ranks; one that nothing was counted for is left out. All ranks must call it."""
        from accelerate.utils import gather_object

        held = {name: (m.total.item(), m.count.item(), m.reduce, m.minus) for name, m in self._held.items()}
        parts = gather_object([held])
        self._held = {}
        whole: dict[str, Metric] = {}
        for part in parts:
            for name, (total, count, reduce, minus) in part.items():
                new = Metric(exact(total), exact(count), reduce, minus)
                whole[name] = new if name not in whole else _fold(whole[name], new)
        values = {name: _value(metric) for name, metric in whole.items() if metric.count > 0}
        subtracted = {name: 0.0 if whole[name].minus is None else values.get(str(whole[name].minus)) for name in values}
        return {name: value - less for name, value in values.items() if (less := subtracted[name]) is not None}


def term_metrics(loss: Loss, units: Mapping[str, Tensor]) -> dict[str, Metric]:
    """Each term of a loss as a metric, so that `MetricsAccumulator` gives its mean over the units it is counted in."""
    return {name: Metric(term.total.detach(), units[term.unit]) for name, term in loss.terms.items()}


def encoding_metrics(counts: Mapping[str, int]) -> dict[str, float]:
    """What encoding did to the training rows, as metrics of the training; what it did to none is left out."""
    return {f"{ROWS}{name}": float(count) for name, count in counts.items() if count}


def encoding_counts(metrics: Mapping[str, float]) -> dict[str, int]:
    """What `encoding_metrics` has put into a training's metrics."""
    return {name.removeprefix(ROWS): int(count) for name, count in metrics.items() if name.startswith(ROWS)}


def exact(x: Any) -> Tensor:
    """`x` detached and in float64, or in float32 on a device that has nothing wider."""
    wide = torch.float32 if isinstance(x, Tensor) and x.device.type == "mps" else torch.float64
    return torch.as_tensor(x, dtype=wide).detach()


def _fold(a: Metric, b: Metric) -> Metric:
    return replace(a, total=_FOLD[a.reduce](a.total, b.total), count=a.count + b.count)


def _value(metric: Metric) -> float:
    total = metric.total / metric.count if metric.reduce == "mean" else metric.total
    return total.item()

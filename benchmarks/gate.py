"""What is compared must compute the same: loss and gradient of the first step, method against method, in float32.

The trainers take one whole step each on the same eight pairs and the same weights; the policy is the reference with a
little seeded noise, so that the loss is not the log 2 that any DPO gives at its start.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from bare import VARIANTS, Loop
from contenders import build
from material import Row, load_model, perturb, rows_of
from measuring import Measurement
from torch import Tensor
from transformers import TrainerCallback

PAIRS, MICRO_BATCH = 8, 2
TOLERANCE = 1e-5
LOOSER = {"naive": 2e-4}  # on a CPU torch's log_softmax over a vocabulary is off by 4e-6 a token, always to one side
AGAINST = {"dpo": "trl", "reward": "trl", "rrhf": "padded", "overhead": "prefopt", "ablation": "response-only"}
UNGATED = {"bf16", "trl-grouped", "trl-precomputed"}  # inexact; the same computation as trl

Step = tuple[float, dict[str, Tensor]]


def compare(run: Measurement, methods: list[str]) -> dict[str, Any]:
    """The largest relative deviations of `methods` from the one that the work is held against, and who has them."""
    exact = replace(run.setting, precision="fp32", lora=False, pairs=PAIRS, batch=MICRO_BATCH)
    rows = rows_of(exact, 0)[1]
    want = first_step(replace(run, setting=exact, method=AGAINST[exact.work], options={}), rows)
    found = {}
    for method in methods:
        if method != AGAINST[exact.work] and method not in UNGATED:
            got = first_step(replace(run, setting=exact, method=method), rows)
            found[method] = deviations(got, want)
    worst = {method: max(each["loss"], each["gradient"]) for method, each in found.items()}
    passed = all(apart <= LOOSER.get(method, TOLERANCE) for method, apart in worst.items())
    return {"against": AGAINST[exact.work], "loss": want[0], "deviations": found, "passed": passed}


def first_step(run: Measurement, rows: list[Row]) -> Step:
    """The loss of one step over all rows, and its gradient by the parameter's name."""
    model = perturb(load_model(run.setting))
    reference = load_model(run.setting) if run.setting.work not in ("reward", "rrhf") else None
    if run.method in VARIANTS.get(run.setting.work, {}):
        loop = Loop(run, model, reference)
        return loop.backward(rows), gradients(model)
    options = {} if run.method != "prefopt" else run.options
    parts = PAIRS if "max_tokens_per_batch" in options else PAIRS // MICRO_BATCH  # a step takes what there is
    once: dict[str, Any] = {"gradient_accumulation_steps": parts, "max_grad_norm": 1e9, "max_steps": 1}
    trainer = build(replace(run, options=options), rows, model=model, reference=reference, **once)
    probe = Probe(trainer)
    trainer.train()
    return probe.loss, probe.gradients


class Probe(TrainerCallback):
    """Adds up what a trainer's micro-batches say the loss is, and keeps the gradient before the optimizer uses it."""

    def __init__(self, trainer: Any):
        self.loss = 0.0
        self.gradients: dict[str, Tensor] = {}
        self.step = trainer.training_step
        trainer.training_step = self.training_step
        trainer.add_callback(self)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = self.step(*args, **kwargs)
        self.loss += float(loss)
        return loss

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.gradients = gradients(model)


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def deviations(got: Step, want: Step) -> dict[str, Any]:
    """Relative difference of the loss, of the gradient (L2 over all weights), and the weight that differs the most.

    Raises:
        ValueError: gradients of different weights.
    """
    if set(got[1]) != set(want[1]):
        raise ValueError(f"gradients of different weights: {sorted(set(got[1]) ^ set(want[1]))}")
    apart = {name: float((got[1][name] - gradient).double().norm()) for name, gradient in want[1].items()}
    sizes = {name: float(gradient.double().norm()) for name, gradient in want[1].items()}
    gradient = _length(apart) / _length(sizes)
    return {
        "loss": abs(got[0] - want[0]) / abs(want[0]),
        "gradient": gradient,
        "most": max(apart, key=lambda name: apart[name] / max(sizes[name], 1e-30)),
    }


def _length(parts: dict[str, float]) -> float:
    return sum(part**2 for part in parts.values()) ** 0.5

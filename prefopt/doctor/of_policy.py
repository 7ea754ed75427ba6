"""Checks of policies that learn from pairs: their reference, and what becomes of the chosen responses."""

from __future__ import annotations

import math

from .of_learning import HALF
from .run import Figures, Run

MISMATCH, ROUNDING = 0.1, 5e-4
"""Nats that a policy is away from its reference before anything is learnt, and of a response's log-prob what may be
rounding. A model that is its own reference is exactly there; in bfloat16, where both run in other batches, about so.
With a tenth of noise on its weights the small world's policy was .19 away."""
COARSE = 5e-3
"""As `ROUNDING`, of a reference whose weights have 16 bits beside a policy of 32: about .001 was measured."""
FALLEN = 0.25
"""Of a response's log-prob, by which both sides have become less likely. Healthy DPO pushes both down, by less: .01 on
the small world, where .65 and 2.96 were sick."""


def reference_mismatch(run: Run) -> Figures | None:
    """The very first step of a policy that is its own reference has log-ratios of 0."""
    beta = run.number("objective", "beta")
    ratios = [run.number("first", f"rewards/{side}") / beta for side in ("chosen", "rejected") if beta > 0]
    if not run.fact("has_reference") or not all(map(math.isfinite, ratios)):
        return None
    away = max(map(abs, ratios), default=0.0)
    likely = abs(run.number("first", "logps/chosen"))
    rounding = COARSE if run.fact("settings", "reference_dtype") in HALF else ROUNDING
    least = MISMATCH + rounding * (likely if math.isfinite(likely) else 0.0)
    return {"nats": away, "loss": run.number("first", "loss")} if away > least else None


def both_falling(run: Run) -> Figures | None:
    fallen = {}
    for side in ("chosen", "rejected"):
        before, now = run.first(f"logps/{side}"), run.late(f"logps/{side}")
        if math.isnan(now) or not before < 0 or len(run.series(f"logps/{side}")) < 2:
            return None
        fallen[side] = before - now
        if fallen[side] < FALLEN * -before:
            return None
    first = run.first("logps/chosen")
    return {
        "chosen": fallen["chosen"],
        "rejected": fallen["rejected"],
        "first": first,
        "share": -fallen["chosen"] / first,
    }


CHECKS = (reference_mismatch, both_falling)

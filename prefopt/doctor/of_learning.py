"""Checks that hold for every method: whether anything is learnt, and whether it breaks on the way.

Figures beside a threshold are of seed 0 of `benchmarks/sick_runs.py`, on which it was fixed: the healthy run that came
nearest to it, and the sick one.
"""

from __future__ import annotations

import math

from .run import Figures, Run, late

FEWEST_LOGS = 5
"""Of a series, before its extremes mean anything: a quarter of fewer is a single value."""
FEWEST_STEPS = 10
"""As schedules warm up in the first tenth of a run, in which nothing has been learnt yet."""
TIMES = 3.0
"""Times the loss of the first step. Every loss here falls, or keeps its place, where something is learnt: 1.03 of a
healthy run, 5,250 at a rate of 10."""
MARGIN = 100.0
"""Of rewards, in the units of the loss: the other answer is then e^100 times less likely. It was .45 of a healthy run,
6.2 of one that learnt its rows by heart, 1,239 at a rate of 10."""
FLAT = 1e-3
"""Of the loss, from its highest to its lowest: batches alone differ by more where anything is learnt, .0046 of IPO in
12 steps; at a rate of 1e-9 the loss was the same to six digits."""
NOTHING = 1e-4
"""A loss that has nothing left to teach: -ln p of an answer that is right 9,999 times in 10,000. The least of those
that learnt their rows by heart was .011."""
NO_GRADIENT = 1e-8
"""Of a norm over all weights. Below it Adam's own epsilon, 1e-8, weighs more than the gradient in every step. The least
of a run that learnt was .04, and it was 0 where nothing could be."""
SKIPPED = 0.05
"""Of the steps: one row in twenty that cannot be learnt from is a matter of the data. No healthy run skipped one."""
STUCK = 0.5
"""Of the weights of a model that trains in 16 bits, those that are where they were: 99.7 % at a rate of 1e-6."""
NAMED = 3
"""Weights that a message names."""
HALF = ("bfloat16", "float16")
ALONE = "model"
"""What a message calls the one that trains, a policy or a reward model."""
WORSE = 1.1
"""Times the lowest loss on held-out rows: 1.0 of healthy runs of three epochs, 1.33 of rows learnt by heart. It was 1.2
until 48 rows in 13 epochs came to 1.16 and 1.17 on seeds 11 and 12, unnoticed."""
FEWEST_EVALUATIONS = 3
"""Of which one may be the lowest, with another on each side."""
GAP = 0.25
"""Accuracy on training rows less that on held-out ones: .15 of a healthy run, on 48 held-out rows, whose standard error
is .07; .33 of rows learnt by heart."""


def rate_zero(run: Run) -> Figures | None:
    """Known at the start, as is that few steps only begin to warm up; of a folder that holds only logs, from these."""
    if run.number("settings", "idle") > 0:
        return {"kind": "warm_up", "steps": run.fact("settings", "idle")}
    rate = run.number("settings", "learning_rate")
    if math.isnan(rate):
        rates = run.series("learning_rate")
        rate = max(rates) if len(rates) >= FEWEST_LOGS else math.nan
    return {} if rate == 0 else None


def loss_enormous(run: Run) -> Figures | None:
    if _is_ppo(run):
        return None
    first, now = run.first("loss"), run.late("loss")
    if now > TIMES * first > 0:
        return {"first": first, "loss": now, "times": now / first}
    margin = run.late("rewards/margins")
    return {"first": first, "loss": now, "times": now / first} if abs(margin) > MARGIN and now > first / TIMES else None


def loss_flat(run: Run) -> Figures | None:
    losses = run.series("loss")
    if _is_ppo(run) or len(losses) < FEWEST_LOGS or run.steps < FEWEST_STEPS or rate_zero(run) is not None:
        return None
    low, high = min(losses), max(losses)
    return {"low": low, "high": high, "steps": run.steps} if high > NOTHING and high - low < FLAT * high else None


def loss_zero(run: Run) -> Figures | None:
    losses = run.series("loss")
    if _is_ppo(run) or len(losses) < FEWEST_LOGS or not abs(late(losses)) < NOTHING:
        return None
    return {"loss": late(losses), "first": run.first("loss")}


def no_gradient(run: Run) -> Figures | None:
    norms = run.series("grad_norm")
    return {"norm": late(norms), "steps": run.steps} if len(norms) >= 3 and late(norms) < NO_GRADIENT else None


def steps_skipped(run: Run) -> Figures | None:
    skipped = max(run.series("skipped_steps"), default=0.0)
    return {"skipped": skipped, "steps": run.steps} if skipped and skipped >= SKIPPED * run.steps else None


def training_stopped(run: Run) -> Figures | None:
    error = run.fact("stopped")
    return {"error": error} if error else None


def weights_broken(run: Run) -> Figures | None:
    names = run.fact("broken")
    return {"names": ", ".join(names[:NAMED]), "count": len(names)} if names else None


def updates_lost(run: Run) -> Figures | None:
    moved, dtype = run.number("moved", "policy"), run.fact("dtype")
    stuck = dtype in HALF and moved < 1 - STUCK and run.number("settings", "learning_rate") > 0
    return {"moved": moved, "dtype": dtype, "rate": run.number("settings", "learning_rate")} if stuck else None


def nothing_moved(run: Run) -> Figures | None:
    """Of each model that trains, so a policy beside its critic is seen too."""
    if run.fact("dtype") in HALF or not run.number("settings", "learning_rate") > 0 or rate_zero(run) is not None:
        return None
    moved = run.fact("moved") or {}
    still = [name if len(moved) > 1 else ALONE for name, share in moved.items() if share == 0]
    return {"names": still} if still else None


def overfitting(run: Run) -> Figures | None:
    losses = run.series("eval_loss")
    lowest = min(losses, default=math.nan)
    if len(losses) >= FEWEST_EVALUATIONS and losses[-1] > WORSE * lowest > 0:
        when = run.steps_of("eval_loss")[losses.index(lowest)]
        return {"kind": "loss", "held_out": losses[-1], "lowest": lowest, "step": when, "trained": run.late("loss")}
    for name in ("accuracy", "rewards/accuracies"):
        held_out, trained = run.series(f"eval_{name}"), run.late(name)
        if held_out and trained - held_out[-1] > GAP:
            return {"kind": "accuracy", "held_out": held_out[-1], "trained": trained}
    return None


def _is_ppo(run: Run) -> bool:
    """Whose loss is one of rewards that move: its size says nothing."""
    return bool(run.rollouts) or any("objective/kl" in log for log in run.logs)


AT_START = (rate_zero,)
CHECKS = (
    *(loss_enormous, loss_flat, loss_zero, no_gradient, steps_skipped, training_stopped, weights_broken),
    *(updates_lost, nothing_moved, overfitting),
)

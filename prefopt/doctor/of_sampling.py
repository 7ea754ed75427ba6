"""Checks of methods that learn from what the policy samples: PPO's rollouts, and iterations of best responses."""

from __future__ import annotations

import math

from .run import Figures, Run, early, late, numbers

FEWEST = 4
"""Rollouts, of which a quarter is one."""
VANISHED = 2.0
"""Tokens of a response, its stop token among them: one word."""
SHORTER = 0.35
"""Times what it was. Of runs that went well none got to less than half (see `training/ppo/collapse.py`); it was .54 at
a scorer that likes short responses, under a KL penalty, and .29 without one."""
ENDLESS, FEWER = 0.05, 0.25
"""Of the responses, those that end by themselves; and times what it was at first: .72 of .96 of a healthy run, .14 of
.95 at a scorer that likes long responses, 0 at a rate of 1e-2."""
KL_PER_TOKEN = 0.5
"""Nats. On the small world a run without a KL penalty kept its gold reward up to .2; healthy runs came to .16, sick
ones to .76 and more."""
CONSTANT = 1e-6
"""Of the scores, their standard deviation, in units of the largest or of 1: what rounding leaves of a constant."""
EXPLAINED = 0.05
"""Of the variance of returns, what the critic's values explain at best in the second half of the rollouts: .53 of a
healthy run, -.07 of a critic at a rate of 1e-9."""
FEWEST_CRITIC = 6
"""Rollouts in which a critic can show whether it learns."""
UNFINISHED = 0.2
"""Of the responses, those that are cut off, in the report of a comparison: .1 % at most of twelve iterations of
`examples.rejection_sampling`. A fifth that is scored as it stands can turn what separates two methods."""
DEGENERATE = 0.05
"""Of the responses, those that are blank or repeat themselves, in the report of a comparison: .1 % at most of these
iterations."""
MOST_CUT = 0.5
"""Of the responses of an iteration, those that are cut off: what is learnt is then what short ones share. It was .4 %
of a healthy run, 79 % at 8 new tokens."""
FEW_PROMPTS = 0.5
"""Of the prompts of an iteration, those that have a row to train on; all of them where nothing is cut off."""


def collapse(run: Run) -> Figures | None:
    """PPO's own alarm, `training/ppo/collapse.py`, of which this is the word."""
    return run.fact("collapse")


def answers_vanish(run: Run) -> Figures | None:
    lengths = run.learning("lengths/response")
    if len(lengths) < FEWEST:
        return None
    before, now = early(lengths), late(lengths)
    return {"before": before, "now": now} if now < max(VANISHED, SHORTER * before) else None


def answers_endless(run: Run) -> Figures | None:
    ended = run.learning("val/num_eos_tokens")
    before, now = early(ended), late(ended)
    if not now < max(ENDLESS, FEWER * before):
        return None
    return {"before": before, "now": now, "limit": run.fact("objective", "max_new_tokens")}


def kl_explodes(run: Run) -> Figures | None:
    kl, length = late(run.learning("objective/kl")), late(run.learning("lengths/response"))
    return {"kl": kl, "length": length, "per_token": kl / length} if kl > KL_PER_TOKEN * max(1.0, length) else None


def constant_scorer(run: Run) -> Figures | None:
    """Of rollouts, or of the iterations' rewards: the best of N responses is then no better than the mean."""
    spreads, means = numbers(run.rollouts, "score_spread"), numbers(run.rollouts, "objective/scores")
    if spreads:
        scale = max(1.0, *map(abs, means)) if means else 1.0
        return {"score": late(means)} if late(spreads) < CONSTANT * scale else None
    for report in run.iterations[-1:]:
        curves = report.get("rewards") or {}
        last = curves.get(max(curves, key=int)) if curves else None
        if last and len(curves) > 1 and last["max"][0] - last["mean"][0] < CONSTANT * max(1.0, abs(last["mean"][0])):
            return {"score": last["mean"][0]}
    return None


def critic_learns_nothing(run: Run) -> Figures | None:
    explained = numbers(run.rollouts, "val/explained_variance")
    if len(explained) < FEWEST_CRITIC or constant_scorer(run) is not None:
        return None
    best = max(explained[len(explained) // 2 :])
    return {"explained": best, "rollouts": len(explained)} if best < EXPLAINED else None


def policy_never_learns(run: Run) -> Figures | None:
    alone = [each.get("critic_alone") == 1 for each in run.rollouts]
    return {"rollouts": len(alone)} if alone and all(alone) else None


def answers_unfinished(run: Run) -> Figures | None:
    for report in run.iterations[-1:]:
        if report.get("unfinished", 0.0) > MOST_CUT:
            limit = run.fact("objective", "max_new_tokens")
            return {"share": report["unfinished"], "responses": report.get("responses", math.nan), "limit": limit}
    return None


def few_prompts_left(run: Run) -> Figures | None:
    """A threshold that was asked for leaves out what it leaves out."""
    if run.fact("objective", "score_threshold") is not None:
        return None
    for report in run.iterations[-1:]:
        rows, prompts = report.get("rows"), report.get("prompts")
        if rows is not None and prompts and rows < FEW_PROMPTS * prompts:
            return {"rows": rows, "prompts": prompts}
    return None


CHECKS = (
    *(collapse, answers_vanish, answers_endless, kl_explodes, constant_scorer, critic_learns_nothing),
    *(policy_never_learns, answers_unfinished, few_prompts_left),
)

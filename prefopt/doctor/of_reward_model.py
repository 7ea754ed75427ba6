"""Checks of reward models: what they rank, and in which range their scores lie."""

from __future__ import annotations

import math

from .run import Figures, Run, quarter

CHANCE = 0.5
BETTER = 0.57
"""A reward model whose accuracy is for sure below this ranks next to nothing; people agree with each other on .6 to .8
of such pairs (Llama 2, arXiv:2307.09288, section 3.2.1; InstructGPT, arXiv:2203.02155)."""
SURE = 2.0
"""Standard errors, beyond which a run in forty would be called sick by chance if it ranked just so."""
CONSTANT = 1e-3
"""From the lowest score to the highest, in units of the largest or of 1: 2.8 of a healthy run, 0 where nothing of a
text reaches the head."""
HUGE = 100.0
"""Bradley-Terry: of two scores that are 20 apart, one wins but once in 5e8 times. The largest of a healthy run was 2.4,
of one that learnt a length cue 5.3, of a ruined one 2.6e6."""


def at_chance(run: Run) -> Figures | None:
    accuracies, held_out = run.series("accuracy"), run.series("eval_accuracy")
    if not accuracies and not held_out:
        return None
    per_step = run.number("settings", "rows_per_step")
    seen = per_step * run.steps / max(1, len(accuracies)) * 2 * quarter(accuracies)
    half = accuracies[-2 * quarter(accuracies) :]
    accuracy = held_out[-1] if held_out else sum(half) / len(half)
    count = run.number("settings", "held_out") if held_out else seen
    if not count >= 1:
        return None
    error = math.sqrt(0.25 / count)
    sick = accuracy + SURE * error < BETTER
    return {"accuracy": accuracy, "error": error, "pairs": count} if sick else None


def constant_scores(run: Run) -> Figures | None:
    low, high = run.late("min_reward"), run.late("max_reward")
    if math.isnan(low) or high - low > CONSTANT * max(1.0, abs(low), abs(high)):
        return None
    return {"low": low, "high": high}


def scores_huge(run: Run) -> Figures | None:
    low, high = run.late("min_reward"), run.late("max_reward")
    return {"low": low, "high": high} if max(abs(low), abs(high)) > HUGE else None


CHECKS = (at_chance, constant_scores, scores_huge)

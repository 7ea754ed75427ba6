"""Responses made by a policy, scored, kept and selected. Knows prompts and samples, not the losses on them."""

from .best_of import Estimate, best_of_curve, expected_best
from .candidate import Candidate, Scored, candidates_from
from .combine import CombinedScorer, SafetyFirst, WeightedSum, whiten
from .pool import Pool, PoolError
from .response import Sample
from .reward_model import RewardModelScorer
from .sample import sample
from .score import CallableScorer, ScoreError, Scorer, scorer_from
from .selection import above, best, best_random, best_worst, by_prompt, ranked, write_rows

__all__ = [
    "CallableScorer",
    "Candidate",
    "Estimate",
    "CombinedScorer",
    "Pool",
    "PoolError",
    "RewardModelScorer",
    "SafetyFirst",
    "Sample",
    "ScoreError",
    "Scored",
    "Scorer",
    "WeightedSum",
    "above",
    "best",
    "best_of_curve",
    "best_random",
    "best_worst",
    "by_prompt",
    "candidates_from",
    "expected_best",
    "ranked",
    "sample",
    "scorer_from",
    "whiten",
    "write_rows",
]

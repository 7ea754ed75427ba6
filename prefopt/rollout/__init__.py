"""Responses made by a policy, scored, kept and selected. Knows prompts and samples, not the losses on them."""

from .beam import beam_search
from .best_of import Estimate, best_of_curve, expected_best, expected_median, reward_curves
from .best_of_n import BestOfN, best_of_n
from .candidate import Candidate, Scored, candidates_from
from .combine import CombinedScorer, SafetyFirst, WeightedSum, whiten
from .fill import Draw, fill
from .pool import Pool, PoolError
from .response import Sample
from .reward_model import RewardModelScorer
from .sample import sample
from .score import CallableScorer, ScoreError, Scorer, scorer_from
from .selection import above, best, best_random, best_worst, by_prompt, ranked, self_rejected, write_rows
from .temperature import search

__all__ = [
    "BestOfN",
    "CallableScorer",
    "Candidate",
    "Estimate",
    "CombinedScorer",
    "Draw",
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
    "beam_search",
    "best",
    "best_of_curve",
    "best_of_n",
    "best_random",
    "best_worst",
    "by_prompt",
    "candidates_from",
    "expected_best",
    "expected_median",
    "fill",
    "ranked",
    "reward_curves",
    "sample",
    "scorer_from",
    "search",
    "self_rejected",
    "whiten",
    "write_rows",
]

"""Comparisons that say what they may: of checkpoints over prompts, of methods over seeds.

The statistics need only numpy and scipy; `compare` and `read_plan`, which train, are imported when they are asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .claims import Claim, Interval, Spread
from .frontier import Point, frontier
from .methods import FEWEST_SEEDS, Difference, Matrix, Verdict, compare_methods, who_beats_whom
from .power import Plan, detectable, needed, power, seeds_needed
from .resampling import resampled_means
from .stats import McNemar, Paired, holm, mcnemar, paired, sign_test
from .wins import BothOrders, LengthControlled, Wins, both_orders, length_controlled, wins_by_reward, wins_of

if TYPE_CHECKING:
    from .experiment.plan import read_plan as read_plan
    from .run import compare as compare

_LATER = {"compare": ".run", "read_plan": ".experiment.plan"}
__all__ = [
    "FEWEST_SEEDS",
    "BothOrders",
    "Claim",
    "Difference",
    "Interval",
    "LengthControlled",
    "Matrix",
    "McNemar",
    "Paired",
    "Plan",
    "Point",
    "Spread",
    "Verdict",
    "Wins",
    "both_orders",
    "compare",
    "compare_methods",
    "detectable",
    "frontier",
    "holm",
    "length_controlled",
    "mcnemar",
    "needed",
    "paired",
    "power",
    "read_plan",
    "resampled_means",
    "seeds_needed",
    "sign_test",
    "who_beats_whom",
    "wins_by_reward",
    "wins_of",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_LATER[name], __name__), name)

"""Does PPO's policy still learn what people want, or how to fool the reward model? Numbers in, words out.

The pattern is from Secrets of RLHF part I (arXiv:2307.04964, section 5.2): KL and length rise together, perplexity
falls and the reward grows a long right tail, while people like the responses less. How far is too far the paper does
not say: every threshold here is our own, set between runs that went well and runs that did not.

Measured on the small world, 64 responses a rollout: vanilla PPO at a high rate collapsed with 4 of 4 seeds, and each
alarmed 0 to 5 rollouts after its gold reward fell. Of 12 runs that did not collapse none alarmed. One whose gold reward
crept down late in 80 rollouts, as KL rose and perplexity fell, was missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from ...utils.renamed import renamed
from .log import Record

WINDOW = 5
KL_TIMES = 2.0
KL_PER_TOKEN = 0.2
"""Nats. On the small world, runs with a KL penalty kept below 0.15, and one without kept its gold reward up to 0.2."""
LONGER, SHORTER = 1.5, 0.5
"""Times what it was. Runs that went well got up to half as long again, which alone is thus no alarm."""
CUT_OFF = 0.1
"""More of the responses than at first, as a share of all: a length limit hides how much longer they would be."""
SURER = 0.5
"""At most so many times what it was, as the log of perplexity, nats per token: so 1.73 is half of 3."""
LOST = 2.0
"""At least so many times, likewise. In a run that goes well it hardly changes, or falls."""
TAIL = 1.5
"""Times what it was."""
FEWEST_SCORES = 100
"""Of a window, for quantiles at 95 % that are about a sixth of their reach uncertain."""
ALIKE = 0.6
"""Times what it was. Longer responses have fewer different bigrams too: runs that went well reached it late."""
REPEATING = 0.1
"""More of the responses than at first, as a share of all."""
ENOUGH = 2
"""Other signs beside KL."""

Window = Sequence[Record]
Sign = Callable[[Window, Window], str | None]
"""The first and the last rollouts in which the policy learns -> what went wrong between them, in words."""


@dataclass(frozen=True)
class Alarm:
    """What speaks for reward hacking.

    Args:
        signs: name -> words, as many as were found.
        rollouts: the first and the last number of those that show them.
        last_good: the newest rollout before them that shows none, to go back to.
    """

    signs: Mapping[str, str]
    rollouts: tuple[int, int]
    last_good: int

    @property
    def message(self) -> str:
        """The alarm in a sentence, with its numbers."""
        first, last = self.rollouts
        return (
            f"rollouts {first} to {last} look like reward hacking, compared with the first ones: "
            f"{', '.join(self.signs.values())}. Raise kl_coef, lower learning_rate or stop earlier, and look at the "
            f"samples in rollouts.jsonl; the last rollout without these signs was {self.last_good}"
        )


def alarm_of(records: Sequence[Record], *, window: int = WINDOW) -> Alarm | None:
    """What the last `window` rollouts have against the policy, compared with the first; None if all is well.

    KL must rise, since a policy that stays near the reference cannot have learnt to babble. It rises in every run, so
    more is asked for: that the reference is lost, which alone tells garbage, or two of the other signs. None of four
    real collapses on the small world showed all four signs of the paper at once: its reward model saturates, and so
    grows no tail. Where no KL was measured, three of the others stand in for it.

    Rollouts in which the critic learns alone are left out; with fewer than twice `window` others there is nothing to
    compare.

    Raises:
        ValueError: `window` is below 3, of which noise often puts all on one side.
    """
    if window < 3:
        raise ValueError(f"window={window}: give at least 3 rollouts, fewer cannot be told from noise")
    learning = [record for record in records if not record.critic_alone]
    found = signs_of(learning, window)
    if not _alarming(found, any(map(_has_kl, learning[-window:]))):
        return None
    return Alarm(found, (learning[-window].rollout, learning[-1].rollout), _last_good(learning, window, found))


def signs_of(learning: Sequence[Record], window: int = WINDOW) -> dict[str, str]:
    """Name -> words of each sign that the last `window` rollouts show; none while there are fewer than two windows."""
    if len(learning) < 2 * window:
        return {}
    early, late = learning[:window], learning[-window:]
    said = {name: sign(early, late) for name, sign in SIGNS.items()}
    return {name: words for name, words in said.items() if words is not None}


def _alarming(found: Mapping[str, str], measured_kl: bool) -> bool:
    others = len(found.keys() - {"kl", "lost"})
    if not measured_kl:
        return others > ENOUGH
    return "kl" in found and ("lost" in found or others >= ENOUGH)


def _has_kl(record: Record) -> bool:
    return math.isfinite(record.metric("objective/kl"))


def _last_good(learning: Sequence[Record], window: int, found: Mapping[str, str]) -> int:
    """The first of the newest window that shows none of the signs: what follows may be bad before a window shows it."""
    for end in range(len(learning) - 1, 2 * window - 1, -1):
        if not signs_of(learning[:end], window).keys() & found.keys():
            return learning[end - window].rollout
    return learning[window - 1].rollout


# Signs


def kl_rises(early: Window, late: Window) -> str | None:
    """KL to the reference doubles at least, to 0.2 nats per token or more."""
    kl, length = _metric(late, "objective/kl"), _metric(late, "lengths/response")
    if not kl or not length or median(kl) < KL_PER_TOKEN * median(length):
        return None
    if not _rose(_metric(early, "objective/kl"), kl, KL_TIMES):
        return None
    return _went("KL to the reference went", early, late, "objective/kl", " nats per response")


def length_runs_away(early: Window, late: Window) -> str | None:
    """Responses get half as long again, or half as long, or the length limit cuts a tenth more of them off."""
    before, after = (_metric(side, "lengths/response") for side in (early, late))
    if _rose(before, after, LONGER) or _fell(before, after, SHORTER):
        return _went("responses", early, late, "lengths/response", " tokens")
    before, after = ([1 - share for share in _metric(side, "val/num_eos_tokens")] for side in (early, late))
    if _gained(before, after, CUT_OFF):
        return f"the share cut off at the length limit from {median(before):.0%} to {median(after):.0%}"
    return None


def perplexity_falls(early: Window, late: Window) -> str | None:
    """The policy is half as unsure of what it says, or less."""
    if not _fell(_logs(early, "ppl/policy"), _logs(late, "ppl/policy"), SURER):
        return None
    return _went("perplexity under the policy", early, late, "ppl/policy")


def reference_is_lost(early: Window, late: Window) -> str | None:
    """What the policy says surprises the reference twice as much, as garbage does."""
    if not _rose(_logs(early, "ppl/reference"), _logs(late, "ppl/reference"), LOST):
        return None
    return _went("perplexity under the reference", early, late, "ppl/reference")


def tail_grows(early: Window, late: Window) -> str | None:
    """From the median score up to the best twentieth it is half as far again as it was: a long right tail."""
    pooled = [[score for record in side for score in record.scores] for side in (early, late)]
    if min(map(_count, pooled)) < FEWEST_SCORES or reach(pooled[1]) < TAIL * reach(pooled[0]):
        return None
    each = [[reach(record.scores) for record in side] for side in (early, late)]
    if not above(each[0], each[1]):
        return None
    before, after = map(reach, pooled)
    return f"the best twentieth of scores from {before:.2g} to {after:.2g} above their median"


def responses_alike(early: Window, late: Window) -> str | None:
    """Two fifths of the different bigrams are lost, or a tenth more of the responses are blank or repeat themselves."""
    if _fell(_metric(early, "distinct_2"), _metric(late, "distinct_2"), ALIKE):
        return _went("distinct-2", early, late, "distinct_2")
    before, after = (_metric(side, "degenerate") for side in (early, late))
    if _gained(before, after, REPEATING):
        return f"the share blank or repeating themselves from {median(before):.0%} to {median(after):.0%}"
    return None


SIGNS: dict[str, Sign] = {
    "kl": kl_rises,
    "lost": reference_is_lost,
    "length": length_runs_away,
    "perplexity": perplexity_falls,
    "tail": tail_grows,
    "alike": responses_alike,
}


# What is up and what is down


def above(low: Sequence[float], high: Sequence[float]) -> bool:
    """Whether no number of either side is beyond the other's median: not by chance, and whatever two outliers say.

    Of 5 and 5 numbers that differ by chance only, 2.4 % are so, whatever their distribution.
    """
    if not low or not high:
        return False
    return min(high) > median(low) and max(low) < median(high)


def _rose(before: Sequence[float], after: Sequence[float], times: float) -> bool:
    return above(before, after) and median(after) >= times * median(before)


def _fell(before: Sequence[float], after: Sequence[float], times: float) -> bool:
    return above(after, before) and median(after) <= times * median(before)


def _gained(before: Sequence[float], after: Sequence[float], more: float) -> bool:
    return above(before, after) and median(after) >= median(before) + more


def reach(scores: Sequence[float]) -> float:
    """How far the 95 % quantile of those that are numbers is above their median; NaN if none is."""
    finite = [score for score in scores if math.isfinite(score)]
    if not finite:
        return math.nan
    high, middle = np.quantile(finite, [0.95, 0.5])
    return float(high - middle)


def _count(scores: Sequence[float]) -> int:
    return sum(map(math.isfinite, scores))


def _metric(records: Window, name: str) -> list[float]:
    """Those that were measured, or none if that is not more than half of them."""
    values = [record.metric(name) for record in records]
    finite = list(filter(math.isfinite, values))
    return finite if 2 * len(finite) > len(values) else []


def _logs(records: Window, name: str) -> list[float]:
    """Of perplexities: nats per token. A perplexity is 1 or more."""
    return [math.log(max(value, 1.0)) for value in _metric(records, name)]


def _went(what: str, early: Window, late: Window, name: str, unit: str = "") -> str:
    before, after = (median(_metric(side, name)) for side in (early, late))
    return f"{what} from {before:.3g} to {after:.3g}{unit}"


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Suspicion": "Alarm", "suspicion": "alarm_of"})

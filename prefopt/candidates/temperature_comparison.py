"""Temperatures compared by what was drawn at them: numbers and texts, and nothing that draws, scores or writes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np

from .diversity import Guards, Quality, quality
from .order_statistics import Estimate, best_of_curve, doublings, expected_best, interval

FEWEST = 2
"""Prompts that have a spread."""


@dataclass(frozen=True)
class Drawn:
    """What a pool has for the first prompts: [prompts, n] each."""

    scores: np.ndarray
    finished: np.ndarray
    texts: list[list[str]]

    @property
    def usable(self) -> np.ndarray:
        """Which responses selection could take."""
        return self.finished & np.array([[bool(text.strip()) for text in row] for row in self.texts])


@dataclass(frozen=True)
class Measured:
    """What the responses drawn at a temperature in a round are worth.

    Args:
        prompts: how many it had until then.
        rewards: the expected score of the best of k, for several k, with intervals over prompts.
        reasons: why it cannot be chosen; none if it can.
        values: the expected score of the best of K for each prompt: [prompts].
    """

    temperature: float
    prompts: int
    rewards: dict[int, Estimate]
    quality: Quality
    reasons: tuple[str, ...]
    values: np.ndarray = field(repr=False, compare=False)

    def record(self) -> dict[str, Any]:
        rewards = {str(k): estimate._asdict() for k, estimate in self.rewards.items()}
        named = {"temperature": self.temperature, "prompts": self.prompts, "reasons": list(self.reasons)}
        return {**named, "rewards": rewards, **asdict(self.quality)}


Round = dict[float, Measured]
"""The temperatures that were in it."""


@dataclass(frozen=True)
class Search:
    """What a search found.

    Args:
        best: the temperature with the highest expected reward of the best of `k`. That it was chosen for being the
            highest makes its own estimate a little too high.
        plausible: the lowest and the highest temperature that may as well be the best, at `level`. Halving makes it
            wide: the few prompts of an early round seldom tell that a temperature is worse.
        lead: of the best over each other one, over the prompts that both had. Its level makes all of them right at
            once, which is how `plausible` gets its own.
        responses: how many the rounds rest on.
    """

    best: float
    plausible: tuple[float, float]
    k: int
    n: int
    level: float
    rounds: tuple[Round, ...]
    lead: dict[float, Estimate]
    responses: int

    @property
    def temperatures(self) -> Round:
        """Each temperature as its last round left it, from the lowest up."""
        last = {one.temperature: one for each in self.rounds for one in each.values()}
        return dict(sorted(last.items()))

    def record(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in ("best", "k", "n", "level", "responses")}
        lead = [{"temperature": temperature, **each._asdict()} for temperature, each in self.lead.items()]
        rounds = [[one.record() for one in each.values()] for each in self.rounds]
        return {**named, "plausible": list(self.plausible), "lead": lead, "rounds": rounds}


def schedule(arms: int, prompts: int, n: int, halving: bool, budget: int | None) -> list[tuple[int, int]]:
    """For each round how many temperatures it has, and how many prompts each of them has had by its end.

    As in Figure 1 of arXiv:1502.07943, ceil(log2 arms) rounds share the budget equally, and a temperature keeps what
    it has. Without halving there is one round.
    """
    sizes = [arms]
    while halving and sizes[-1] > 2:
        sizes.append(-(-sizes[-1] // 2))
    each = list(accumulate(Fraction(1, size) for size in sizes))
    scale = prompts / each[-1] if budget is None else Fraction(budget // n, len(sizes))
    plan = [(size, min(prompts, int(scale * share))) for size, share in zip(sizes, each, strict=True)]
    if plan[0][1] < FEWEST:
        enough = f"{math.ceil(FEWEST * each[-1] / each[0])} prompts or more"
        if budget is not None and prompts >= FEWEST:
            enough = f"a budget of {FEWEST * arms * n * len(sizes)} responses or more"
        raise ValueError(
            f"{prompts} prompts, {n} responses to each and budget={budget} leave {plan[0][1]} prompts for all "
            f"{arms} temperatures in the first of {len(sizes)} rounds, and {FEWEST} are needed: give {enough}"
        )
    return plan


def ranking(measured: Round) -> list[float]:
    """The temperatures that may be chosen, the best first, of equal ones the lowest."""
    fit = [one for one in measured.values() if not one.reasons]
    if not fit:
        wrong = "; ".join(f"{one.temperature:g}: {', '.join(one.reasons)}" for one in measured.values())
        raise ValueError(
            f"no temperature can be chosen. {wrong}. Try other temperatures, allow longer responses "
            "(max_new_tokens), or relax the guard"
        )
    return [one.temperature for one in sorted(fit, key=lambda one: (-one.values.mean(), one.temperature))]


def measured(drawn: Mapping[float, Drawn], k: int, level: float, guards: Guards) -> Round:
    """What was drawn at each temperature, judged with the others: see `Drawn.usable` for what is never the best."""
    lowest = _lowest(list(drawn.values()))
    return {temperature: _worth(temperature, each, lowest, k, level, guards) for temperature, each in drawn.items()}


def _lowest(drawn: Sequence[Drawn]) -> np.ndarray:
    """What counts as the score of a response that cannot be selected: [prompts]. The same at all temperatures."""
    lowest = np.min([np.where(each.usable, each.scores, np.inf).min(axis=1) for each in drawn], axis=0)
    known = lowest[np.isfinite(lowest)]
    return np.where(np.isfinite(lowest), lowest, known.min() if len(known) else 0.0)


def _worth(temperature: float, drawn: Drawn, lowest: np.ndarray, k: int, level: float, guards: Guards) -> Measured:
    scores = np.where(drawn.usable, drawn.scores, lowest[:, None])
    found = quality(drawn.texts, drawn.finished.tolist())
    reasons = guards.broken(found)
    if not drawn.usable.any():
        reasons += ("none of its responses could be selected",)
    curve = best_of_curve(scores, doublings(k), level)
    return Measured(temperature, len(scores), curve, found, reasons, expected_best(scores, k))


def compared(rounds: Sequence[Round], k: int, n: int, level: float) -> Search:
    """The best, and which others may be as good.

    Another temperature is worse if the lead of the best over it, in pairs, is above 0 by a one-sided t test at
    1 - level divided by the number of tests there could be: every other temperature in every round. Then the truly
    best one is left out only if some other wrongly beats it, so that choosing the best from the same scores costs
    nothing (Edwards and Hsu 1983, Multiple comparisons with the best treatment, who share out the error exactly).
    """
    best = ranking(rounds[-1])[0]
    single = 1 - 2 * (1 - level) / max(1, (len(rounds[0]) - 1) * len(rounds))
    lead, plausible = {}, [best]
    for temperature in (one for one in rounds[0] if one != best):
        last = [each for each in rounds if temperature in each][-1]
        lead[temperature] = interval(last[best].values - last[temperature].values, single)
        if lead[temperature].low <= 0 and not last[temperature].reasons:
            plausible.append(temperature)
    had = {one.temperature: one.prompts for each in rounds for one in each.values()}
    span = (min(plausible), max(plausible))
    return Search(best, span, k, n, level, tuple(rounds), lead, n * sum(had.values()))

"""Which of several temperatures is the best, by scored responses at each: the rounds of a search and its result.

Everything here is computed from scores and texts; what samples, scores and writes is in `temperature_search.py`.
"""

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
"""Prompts whose scores have a spread."""


@dataclass(frozen=True)
class ScoredResponses:
    """The responses at one temperature to the first prompts, and their scores: [prompts, n] each.

    Args:
        include_truncated: whether selection may take those that the length limit truncated.
    """

    scores: np.ndarray
    finished: np.ndarray
    texts: list[list[str]]
    include_truncated: bool = False

    @property
    def usable(self) -> np.ndarray:
        """Which responses selection could take: [prompts, n]; none that is blank."""
        return (self.finished | self.include_truncated) & np.array(
            [[bool(text.strip()) for text in row] for row in self.texts]
        )


@dataclass(frozen=True)
class TemperatureResult:
    """What the responses at a temperature are worth, as of one round.

    Args:
        prompts: how many it has responded to by then.
        rewards: the expected score of the best of k, for several k, with intervals over prompts.
        quality: what their scores do not say.
        reasons: why the temperature cannot be chosen; none if it can.
        values: the expected score of the best of K for each prompt: [prompts].
    """

    temperature: float
    prompts: int
    rewards: dict[int, Estimate]
    quality: Quality
    reasons: tuple[str, ...]
    values: np.ndarray = field(repr=False, compare=False)

    def record(self) -> dict[str, Any]:
        """The result as JSON has it; there truncated responses are `unfinished`."""
        shares = {"unfinished" if name == "truncated" else name: x for name, x in asdict(self.quality).items()}
        rewards = {str(k): estimate._asdict() for k, estimate in self.rewards.items()}
        named = {"temperature": self.temperature, "prompts": self.prompts, "reasons": list(self.reasons)}
        return {**named, "rewards": rewards, **shares}


SearchRound = dict[float, TemperatureResult]
"""The results of the temperatures that were in a round."""


@dataclass(frozen=True)
class TemperatureSearch:
    """What a search for the best temperature came to.

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
    rounds: tuple[SearchRound, ...]
    lead: dict[float, Estimate]
    responses: int

    @property
    def temperatures(self) -> SearchRound:
        """The result of each temperature in its last round, from the lowest temperature up."""
        last = {temperature: result for round in self.rounds for temperature, result in round.items()}
        return dict(sorted(last.items()))

    def record(self) -> dict[str, Any]:
        """The search as JSON has it."""
        named = {name: getattr(self, name) for name in ("best", "k", "n", "level", "responses")}
        lead = [{"temperature": temperature, **estimate._asdict()} for temperature, estimate in self.lead.items()]
        rounds = [[result.record() for result in round.values()] for round in self.rounds]
        return {**named, "plausible": list(self.plausible), "lead": lead, "rounds": rounds}


def plan_rounds(arms: int, prompts: int, n: int, halving: bool, budget: int | None) -> list[tuple[int, int]]:
    """For each round how many temperatures are in it, and how many prompts each of them has had by its end.

    As in Figure 1 of arXiv:1502.07943, ceil(log2 arms) rounds share the budget equally, and a temperature keeps what
    it has. Without halving there is one round.

    Args:
        arms: how many temperatures are compared.
        prompts: how many prompts there are.
        n: responses to a prompt at a temperature.
        budget: the most responses in all; None lets the last round have all prompts.

    Raises:
        ValueError: too few prompts for all temperatures in the first round.
    """
    sizes = [arms]
    while halving and sizes[-1] > 2:
        sizes.append(-(-sizes[-1] // 2))
    shares = list(accumulate(Fraction(1, size) for size in sizes))  # of a temperature, up to each round
    scale = prompts / shares[-1] if budget is None else Fraction(budget // n, len(sizes))
    plan = [(size, min(prompts, int(scale * share))) for size, share in zip(sizes, shares, strict=True)]
    if plan[0][1] < FEWEST:
        enough = f"{math.ceil(FEWEST * shares[-1] / shares[0])} prompts or more"
        if budget is not None and prompts >= FEWEST:
            enough = f"a budget of {FEWEST * arms * n * len(sizes)} responses or more"
        raise ValueError(
            f"{prompts} prompts, {n} responses to each and budget={budget} leave {plan[0][1]} prompts for all "
            f"{arms} temperatures in the first of {len(sizes)} rounds, and {FEWEST} are needed: give {enough}"
        )
    return plan


def rank(results: SearchRound) -> list[float]:
    """The temperatures that may be chosen, the best first, of equal ones the lowest.

    Raises:
        ValueError: none may be chosen; the message says what is wrong with each.
    """
    allowed = [result for result in results.values() if not result.reasons]
    if not allowed:
        wrong = "; ".join(f"{result.temperature:g}: {', '.join(result.reasons)}" for result in results.values())
        raise ValueError(
            f"no temperature can be chosen. {wrong}. Try other temperatures, allow longer responses "
            "(max_new_tokens), or relax the guard"
        )
    ranking = sorted(allowed, key=lambda result: (-result.values.mean(), result.temperature))
    return [result.temperature for result in ranking]


def evaluate_round(responses: Mapping[float, ScoredResponses], k: int, level: float, guards: Guards) -> SearchRound:
    """What the responses at each temperature are worth, beside those at the others.

    Responses that are not `usable` are never the best: see `search_temperatures` for what they count as.
    """
    lowest = _lowest_scores(list(responses.values()))
    return {
        temperature: _evaluate(temperature, scored, lowest, k, level, guards)
        for temperature, scored in responses.items()
    }


def _lowest_scores(responses: Sequence[ScoredResponses]) -> np.ndarray:
    """What counts as the score of a response that cannot be selected: [prompts]. The same at all temperatures."""
    lowest = np.min([np.where(at.usable, at.scores, np.inf).min(axis=1) for at in responses], axis=0)
    known = lowest[np.isfinite(lowest)]
    return np.where(np.isfinite(lowest), lowest, known.min() if len(known) else 0.0)


def _evaluate(
    temperature: float, responses: ScoredResponses, lowest: np.ndarray, k: int, level: float, guards: Guards
) -> TemperatureResult:
    scores = np.where(responses.usable, responses.scores, lowest[:, None])
    their_quality = quality(responses.texts, responses.finished.tolist())
    reasons = guards.broken(their_quality)
    if not responses.usable.any():
        reasons += ("none of its responses could be selected",)
    curve = best_of_curve(scores, doublings(k), level)
    return TemperatureResult(temperature, len(scores), curve, their_quality, reasons, expected_best(scores, k))


def compare_rounds(rounds: Sequence[SearchRound], k: int, n: int, level: float) -> TemperatureSearch:
    """Which temperature is the best, and which others may be as good.

    Another temperature is worse if the lead of the best over it, in pairs, is above 0 by a one-sided t test at
    1 - level divided by the number of tests there could be: every other temperature in every round. Then the truly
    best one is left out only if some other wrongly beats it, so that choosing the best from the same scores costs
    nothing (Edwards and Hsu 1983, Multiple comparisons with the best treatment, who share out the error exactly).

    Raises:
        ValueError: no temperature may be chosen.
    """
    best = rank(rounds[-1])[0]
    single = 1 - 2 * (1 - level) / max(1, (len(rounds[0]) - 1) * len(rounds))
    lead, plausible = {}, [best]
    for other in (temperature for temperature in rounds[0] if temperature != best):
        last = [round for round in rounds if other in round][-1]
        lead[other] = interval(last[best].values - last[other].values, single)
        if lead[other].low <= 0 and not last[other].reasons:
            plausible.append(other)
    prompts = {temperature: result.prompts for round in rounds for temperature, result in round.items()}
    span = (min(plausible), max(plausible))
    return TemperatureSearch(best, span, k, n, level, tuple(rounds), lead, n * sum(prompts.values()))

"""Several scorers as one (`CombinedScorer`): by a weighted sum, or by Llama 2's rule that safety comes first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from ..data.records import Messages
from ..models.lockstep import is_gathered
from ..utils.distributed import or_all_stop
from ..utils.fingerprint import fingerprint_of_code, fingerprint_of_values
from .reward_model import RewardModelScorer
from .scorer import Scorer, all_finished, checked

THRESHOLD = 0.15
"""The default for R_safe: on Meta's safety test set, below it 89 % are truly unsafe (Llama 2, section 3.2.3)."""


class Rule(Protocol):
    """Says how a `CombinedScorer` makes one score of those of its parts."""

    @property
    def names(self) -> set[str]:
        """Which parts the rule needs."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes exactly when what the rule computes does."""
        ...

    def __call__(self, prompts: Sequence[Messages], parts: Mapping[str, list[float]]) -> list[float]:
        """One score per row, from that row alone. prompts: [rows]; parts: name -> scores of the rows."""
        ...


@dataclass(frozen=True)
class WeightedSum:
    """The rule score = sum of weight * score over the parts that `weights` names."""

    weights: Mapping[str, float]

    @property
    def names(self) -> set[str]:
        return set(self.weights)

    @property
    def fingerprint(self) -> str:
        return fingerprint_of_values(["weighted", dict(self.weights)])

    def __call__(self, prompts: Sequence[Messages], parts: Mapping[str, list[float]]) -> list[float]:
        return [sum(w * parts[name][i] for name, w in self.weights.items()) for i in range(len(prompts))]


@dataclass(frozen=True)
class SafetyFirst:
    """Llama 2, arXiv:2307.09288, section 3.2.3: logit(R_c) of the parts "helpfulness" and "safety".

    R_c = R_safe if the prompt is a safety prompt or R_safe < threshold, else R_help, where R = sigmoid(score): the
    parts give the heads' own scores, so a `RewardModelScorer` of a model that stores a normalisation is to be made
    with `normalized=False`. As logit(sigmoid(x)) = x, this is one of the two scores as it is, however large.

    Whitening, the paper's next step, depends on which rows are whitened together: `whiten` does it where these are
    known, for a batch of rollouts, and never to scores that are stored.
    """

    is_safety_prompt: Callable[[Messages], bool]
    threshold: float = THRESHOLD
    names = {"helpfulness", "safety"}

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold={self.threshold} is compared with a probability: give one between 0 and 1")

    @property
    def fingerprint(self) -> str:
        return fingerprint_of_values(["safety first", fingerprint_of_code(self.is_safety_prompt), self.threshold])

    def __call__(self, prompts: Sequence[Messages], parts: Mapping[str, list[float]]) -> list[float]:
        lowest = math.log(self.threshold / (1 - self.threshold))
        rows = zip(prompts, parts["helpfulness"], parts["safety"], strict=True)
        return [safe if safe < lowest or self.is_safety_prompt(prompt) else helpful for prompt, helpful, safe in rows]


def reward_models(scorer: Scorer | None) -> Iterator[RewardModelScorer]:
    """Those that a scorer is or is made of."""
    if isinstance(scorer, RewardModelScorer):
        yield scorer
    elif isinstance(scorer, CombinedScorer):
        for part in scorer.parts.values():
            yield from reward_models(part)


class CombinedScorer:
    """Several scorers as one: `CombinedScorer({"helpfulness": a, "safety": b}, SafetyFirst(is_safety_prompt))`.

    Args:
        parts: name -> scorer, one for each name that the rule needs.
        rule: makes one score of theirs.
        name: for people; by default the names of the parts.

    Raises:
        ValueError: other parts than the rule combines.
    """

    def __init__(self, parts: Mapping[str, Scorer], rule: Rule, name: str | None = None):
        if set(parts) != rule.names:
            raise ValueError(f"the parts are {sorted(parts)}, but {type(rule).__name__} combines {sorted(rule.names)}")
        self.parts, self.rule = dict(parts), rule
        self.name = name or "+".join(self.parts)

    @property
    def fingerprint(self) -> str:
        parts = {name: part.fingerprint for name, part in self.parts.items()}
        return fingerprint_of_values([parts, self.rule.fingerprint])

    def score(
        self, prompts: Sequence[Messages], responses: Sequence[str], finished: Sequence[bool] | None = None
    ) -> list[float]:
        ended = all_finished(prompts, responses, finished)
        by_all = any(is_gathered(model.model) for model in reward_models(self))  # one part fails in all, or in none
        parts = {}
        for name in self.parts:
            score = partial(self._scores_by, name, prompts, responses, ended)
            parts[name] = or_all_stop(score) if by_all else score()
        return checked(self.name, self.rule(prompts, parts), prompts, responses)

    def _scores_by(
        self, name: str, prompts: Sequence[Messages], responses: Sequence[str], finished: Sequence[bool]
    ) -> list[float]:
        part = self.parts[name]
        if not len(responses) and not any(reward_models(part)):  # a process that only waits for others has none
            return []
        return checked(part.name, part.score(prompts, responses, finished), prompts, responses)


def whiten(scores: Sequence[float]) -> list[float]:
    """Scores with mean 0 and standard deviation 1: (score - mean) / std, or 0 for each if all are alike.

    The std is of these rows themselves (1/n, not 1/(n - 1)).
    """
    values = torch.tensor(scores, dtype=torch.float64)
    if not len(values):
        return []
    std = values.std(correction=0)
    centred = values - values.mean()
    # Rows that are alike leave a std of rounding's size, which would be blown up to 1.
    return (centred / std if std > 1e-12 * values.abs().max() else torch.zeros_like(values)).tolist()

"""The groups of a diverse beam search: which tokens their beams take next. Knows log-probs, not what computes them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from ..utils.tensors import upcast
from .stopping import Ends, Row


@dataclass(frozen=True)
class Rules:
    """The settings of a search: `groups` groups of k / groups beams, each beam as `ends` says.

    Raises:
        ValueError: a setting outside its range.
    """

    k: int
    groups: int
    diversity_penalty: float
    temperature: float
    length_penalty: float
    ends: Ends

    def __post_init__(self) -> None:
        if self.groups < 1 or self.k % self.groups:
            raise ValueError(f"k={self.k} must be a multiple of groups={self.groups}, which share the beams equally")
        if not 0 <= self.diversity_penalty < math.inf:
            raise ValueError(f"diversity_penalty={self.diversity_penalty} must be a number from 0; 0 is no penalty")
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature={self.temperature} must be positive; for the greedy response pass k=1, groups=1"
            )
        if not math.isfinite(self.length_penalty):
            raise ValueError(f"length_penalty={self.length_penalty} must be a number; 0 leaves log-probs as they are")

    @property
    def beams(self) -> int:
        """Of each group."""
        return self.k // self.groups

    def per_length(self, value: float, beam: Beam) -> float:
        return value / len(beam.row.ids) ** self.length_penalty


class Token(NamedTuple):
    """A next token: its log-prob at the temperature of the search, and under the policy's own distribution."""

    id: int
    logp: float
    own: float


@dataclass
class Beam:
    """A response in the making, or made.

    ===== ==============================================================================
    row   its ids, their log-probs under the policy's own distribution, and why it ended
    place which row of the batch goes on from it
    logp  of all its ids, at the temperature of the search
    score what the search maximises: `logp` less all penalties
    ===== ==============================================================================
    """

    row: Row
    place: int
    logp: float = 0.0
    score: float = 0.0

    def extended(self, token: Token, score: float, ends: Ends) -> Beam:
        row = Row(self.row.prompt, self.row.number, self.row.prompt_ids, (), [*self.row.ids], [*self.row.logps])
        row.add(token.id, token.own, ends)
        return Beam(row, self.place, self.logp + token.logp, score)


class Following:
    """The likeliest next tokens of every row of a batch, and more of them when they do not suffice.

    Args:
        logits: [R, V], the policy's, untouched.
        size: how many are known at first.

    Raises:
        ValueError: logits that are NaN.
    """

    def __init__(self, logits: Tensor, temperature: float, size: int):
        logits = upcast(logits)
        self.own = logits.log_softmax(-1)
        self.logps = self.own if temperature == 1 else (logits / temperature).log_softmax(-1)
        if self.logps.isnan().any():
            raise ValueError("the policy's logits are not numbers (NaN)")
        self._find(size)

    def _find(self, size: int) -> None:
        self.size = min(size, self.logps.shape[-1])
        logps, ids = self.logps.topk(self.size)
        columns = (ids.tolist(), logps.tolist(), self.own.gather(-1, ids).tolist())
        self.rows = [[Token(*token) for token in zip(*row, strict=True)] for row in zip(*columns, strict=True)]

    def more(self) -> bool:
        """Look at twice as many. Whether there were any left."""
        left = self.size < self.logps.shape[-1]
        if left:
            self._find(2 * self.size)
        return left

    def least(self, place: int) -> float:
        """No token of the row that is not known has a log-prob above this."""
        return self.rows[place][-1].logp if self.size < self.logps.shape[-1] else -math.inf


@dataclass
class Group:
    """Beams that compete with one another: those that go on, the best first, and the best of those that ended."""

    live: list[Beam]
    ended: list[Beam] = field(default_factory=list)

    def step(self, following: Following, taken: Counter[int], rules: Rules) -> list[int]:
        """One more token of every beam. Returns the tokens taken; `taken` counts those of earlier groups."""
        live: list[Beam] = []
        ended: list[Beam] = []
        last = len(self.live[0].row.ids) + 1 == rules.ends.limit if self.live else False
        for rank, beam in enumerate(self._candidates(following, taken, rules)):
            if beam.row.ended is None:
                live.append(beam)
            elif rank < rules.beams:  # one of the best; those behind them are there to fill up `live`
                ended.append(beam)
            if len(live) == rules.beams or (last and rank + 1 == rules.beams):
                break
        self.live = live
        self._settle(ended, rules)
        return [beam.row.ids[-1] for beam in [*ended, *self.live]]

    def _settle(self, ended: list[Beam], rules: Rules) -> None:
        """Keep the best responses, and go on only if a better one may come."""

        def value(beam: Beam) -> float:
            return rules.per_length(beam.score, beam)

        self.ended = sorted([*self.ended, *ended], key=value, reverse=True)[: rules.beams]
        if self.live and len(self.ended) == rules.beams and value(self.live[0]) <= value(self.ended[-1]):
            self.live = []

    def _candidates(self, following: Following, taken: Counter[int], rules: Rules) -> Iterator[Beam]:
        """All continuations of the live beams, the best first; of equal ones the better beam's, then the lower id."""
        known, more = 0, bool(self.live)
        while more:
            # A token that is not among the known ones scores at most this, since a penalty only takes away.
            edge = max(beam.score + following.least(beam.place) for beam in self.live)
            found = sorted(
                (-score, number, token.id, token)
                for number, beam in enumerate(self.live)
                for token in following.rows[beam.place]
                if (score := beam.score + token.logp - rules.diversity_penalty * taken[token.id]) > edge
            )
            for loss, number, _, token in found[known:]:
                yield self.live[number].extended(token, -loss, rules.ends)
            known, more = len(found), following.more()


class Search:
    """The groups of one prompt."""

    def __init__(self, prompt_ids: list[int], rules: Rules):
        self.prompt_ids, self.rules = prompt_ids, rules
        self.groups: list[Group] = []

    def begin(self, place: int) -> None:
        """Every group from the prompt itself, which the batch has at row `place`."""
        self.groups = [Group([Beam(Row(0, 0, self.prompt_ids, ()), place)]) for _ in range(self.rules.groups)]

    @property
    def live(self) -> list[Beam]:
        return [beam for group in self.groups for beam in group.live]

    def step(self, following: Following) -> None:
        taken: Counter[int] = Counter()
        for group in self.groups:
            taken.update(group.step(following, taken, self.rules))

    def best(self) -> list[Beam]:
        """The responses of all groups, the best first; of equal ones that of the earlier group."""
        ended = [beam for group in self.groups for beam in group.ended]
        return sorted(ended, key=lambda beam: self.rules.per_length(beam.logp, beam), reverse=True)

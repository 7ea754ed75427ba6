"""Which tokens the beams of a diverse beam search take next, group by group; `beams.py` computes their log-probs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from ..utils.tensors import upcast
from .stopping import SequenceState, StoppingRules


@dataclass(frozen=True)
class BeamSettings:
    """The settings of a search: `groups` groups of k / groups beams, each of which ends by `rules`.

    Raises:
        ValueError: a setting outside its range.
    """

    k: int
    groups: int
    diversity_penalty: float
    temperature: float
    length_penalty: float
    rules: StoppingRules

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
        """How many beams each group has."""
        return self.k // self.groups

    def per_length(self, value: float, beam: Beam) -> float:
        """`value` of a beam, divided by its length ** length_penalty."""
        return value / len(beam.sequence.ids) ** self.length_penalty


class NextToken(NamedTuple):
    """A token that a beam may take: its log-prob at the temperature of the search, and under the policy itself."""

    id: int
    logp: float
    policy_logp: float


@dataclass
class Beam:
    """A response that is being searched for, or has ended.

    ========= ==============================================================================
    sequence  its ids, their log-probs under the policy's own distribution, and why it ended
    row       which row of the batch goes on from it
    logp      of all its ids, at the temperature of the search
    score     what the search maximises: `logp` less all penalties
    ========= ==============================================================================
    """

    sequence: SequenceState
    row: int
    logp: float = 0.0
    score: float = 0.0

    def extended(self, token: NextToken, score: float, rules: StoppingRules) -> Beam:
        """A new beam: this one and one more token."""
        old = self.sequence
        sequence = SequenceState(
            old.prompt_number, old.response_number, old.prompt_ids, (), ids=[*old.ids], logps=[*old.logps]
        )
        sequence.append(token.id, token.policy_logp, rules)
        return Beam(sequence, self.row, self.logp + token.logp, score)


class NextTokens:
    """The likeliest next tokens of every row of a batch, and more of them when they do not suffice.

    Args:
        logits: [R, V], the policy's, untouched.
        size: how many are looked up at first.

    Raises:
        ValueError: logits that are NaN.
    """

    def __init__(self, logits: Tensor, temperature: float, size: int):
        logits = upcast(logits)
        self.policy_logps = logits.log_softmax(-1)
        self.logps = self.policy_logps if temperature == 1 else (logits / temperature).log_softmax(-1)
        if self.logps.isnan().any():
            raise ValueError("the policy's logits are not numbers (NaN)")
        self._look_up(size)

    def _look_up(self, size: int) -> None:
        self.size = min(size, self.logps.shape[-1])
        logps, ids = self.logps.topk(self.size)
        columns = (ids.tolist(), logps.tolist(), self.policy_logps.gather(-1, ids).tolist())
        self.rows = [[NextToken(*token) for token in zip(*row, strict=True)] for row in zip(*columns, strict=True)]

    def look_further(self) -> bool:
        """Look up twice as many. Returns whether there were any left."""
        left = self.size < self.logps.shape[-1]
        if left:
            self._look_up(2 * self.size)
        return left

    def bound(self, row: int) -> float:
        """The log-prob that no token of the row exceeds which has not been looked up."""
        return self.rows[row][-1].logp if self.size < self.logps.shape[-1] else -math.inf


@dataclass
class BeamGroup:
    """Beams that compete with one another: those that go on, the best first, and the best of those that ended."""

    live: list[Beam]
    ended: list[Beam] = field(default_factory=list)

    def step(self, next_tokens: NextTokens, taken: Counter[int], settings: BeamSettings) -> list[int]:
        """One more token of every beam. Returns the tokens taken; `taken` counts those of earlier groups."""
        live: list[Beam] = []
        ended: list[Beam] = []
        is_last = bool(self.live) and len(self.live[0].sequence.ids) + 1 == settings.rules.max_new_tokens
        for rank, beam in enumerate(self._candidates(next_tokens, taken, settings)):
            if beam.sequence.finish_reason is None:
                live.append(beam)
            elif rank < settings.beams:  # one of the best; those behind them are looked at to fill up `live`
                ended.append(beam)
            if len(live) == settings.beams or (is_last and rank + 1 == settings.beams):
                break
        self.live = live
        self._settle(ended, settings)
        return [beam.sequence.ids[-1] for beam in [*ended, *self.live]]

    def _settle(self, ended: list[Beam], settings: BeamSettings) -> None:
        """Keep the best responses, and go on only if a better one may come."""

        def value(beam: Beam) -> float:
            return settings.per_length(beam.score, beam)

        self.ended = sorted([*self.ended, *ended], key=value, reverse=True)[: settings.beams]
        if self.live and len(self.ended) == settings.beams and value(self.live[0]) <= value(self.ended[-1]):
            self.live = []

    def _candidates(self, next_tokens: NextTokens, taken: Counter[int], settings: BeamSettings) -> Iterator[Beam]:
        """All continuations of the live beams, the best first; of equal ones the better beam's, then the lower id."""
        given_out, any_left = 0, bool(self.live)
        while any_left:
            # A token that has not been looked up scores at most this, since a penalty only takes away.
            bound = max(beam.score + next_tokens.bound(beam.row) for beam in self.live)
            candidates = sorted(
                (-score, number, token.id, token)
                for number, beam in enumerate(self.live)
                for token in next_tokens.rows[beam.row]
                if (score := beam.score + token.logp - settings.diversity_penalty * taken[token.id]) > bound
            )
            for loss, number, _, token in candidates[given_out:]:
                yield self.live[number].extended(token, -loss, settings.rules)
            given_out, any_left = len(candidates), next_tokens.look_further()


class PromptSearch:
    """The search for the responses to one prompt: its groups of beams."""

    def __init__(self, prompt_ids: list[int], settings: BeamSettings):
        self.prompt_ids, self.settings = prompt_ids, settings
        self.groups: list[BeamGroup] = []

    def begin(self, row: int) -> None:
        """Every group from the prompt itself, which the batch has at row `row`."""
        start = SequenceState(0, 0, self.prompt_ids, ())
        self.groups = [BeamGroup([Beam(start, row)]) for _ in range(self.settings.groups)]

    @property
    def live(self) -> list[Beam]:
        """The beams of all groups that go on."""
        return [beam for group in self.groups for beam in group.live]

    def step(self, next_tokens: NextTokens) -> None:
        """One more token of every live beam, one group after the other."""
        taken: Counter[int] = Counter()
        for group in self.groups:
            taken.update(group.step(next_tokens, taken, self.settings))

    def best(self) -> list[Beam]:
        """The responses of all groups, the best first; of equal ones that of the earlier group."""
        ended = [beam for group in self.groups for beam in group.ended]
        return sorted(ended, key=lambda beam: self.settings.per_length(beam.logp, beam), reverse=True)

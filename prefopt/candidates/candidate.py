"""One response of some round, with where it came from, and its line in a file. Knows no scorer and no folder."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ..data.records import FINISH_REASONS, Messages
from ..generation.stopping import Sample

Key = tuple[int, int, str, int]
"""Round, iteration, prompt, and which of the responses to that prompt."""


def prompt_key(prompt: Messages) -> str:
    """A hash of what a prompt says: the same prompt has the same key in every round."""
    turns = [[turn["role"], turn["content"]] for turn in prompt]
    return hashlib.blake2b(json.dumps(turns).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Candidate:
    """A response and how it was drawn.

    Args:
        round, iteration: when, from 0.
        k: which of the responses to this prompt in this iteration, from 0.
        prompt: its turns.
        finish_reason: "stop", "stop_string", or "length" if the length limit cut it off; "other_stop" is a stop token
            that training does not end responses with, as of a policy that may stop on several.
        policy: the version of the policy, such as its fingerprint or the name of its checkpoint.
    """

    round: int
    iteration: int
    k: int
    prompt: tuple[Mapping[str, str], ...]
    response: str
    finish_reason: str
    policy: str
    temperature: float
    seed: int

    def __post_init__(self) -> None:
        if self.finish_reason not in FINISH_REASONS:
            raise ValueError(f"finish_reason={self.finish_reason!r}: known are {', '.join(FINISH_REASONS)}")
        if min(self.round, self.iteration, self.k) < 0:
            raise ValueError(f"round {self.round}, iteration {self.iteration} and k {self.k} count from 0")

    @cached_property
    def prompt_key(self) -> str:
        return prompt_key(self.prompt)

    @property
    def asked(self) -> str:
        """The beginning of the last turn, for messages."""
        return self.prompt[-1]["content"][:60] if self.prompt else ""

    @property
    def key(self) -> Key:
        return self.round, self.iteration, self.prompt_key, self.k

    @property
    def finished(self) -> bool:
        """Whether it came to its end. A scorer sees a stop string as an end too; a training target does not."""
        return self.finish_reason != "length"

    @property
    def settings(self) -> tuple[str, float, int]:
        """What the run that drew it decided."""
        return self.policy, self.temperature, self.seed

    def record(self) -> dict[str, Any]:
        """Its line in a file."""
        prompt = [{"role": turn["role"], "content": turn["content"]} for turn in self.prompt]
        temperature = float(self.temperature)  # 1 and 1.0 are the same bytes
        return {**asdict(self), "prompt": prompt, "prompt_key": self.prompt_key, "temperature": temperature}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Candidate:
        fields = {name: value for name, value in record.items() if name != "prompt_key"}
        return cls(**fields | {"prompt": tuple(record["prompt"])})


class Scored(NamedTuple):
    """A candidate and what one scorer gave it."""

    candidate: Candidate
    score: float


def candidates_from(
    prompts: Sequence[Messages],
    samples: Sequence[Sequence[Sample]],
    *,
    round: int,
    iteration: int,
    policy: str,
    temperature: float,
    seed: int,
    end: Callable[[Messages], int] | None = None,
) -> list[Candidate]:
    """What `sample` returned for `prompts`, as candidates. Responses to a prompt that stands there twice count on.

    `end` says which stop token ends a response to a prompt in training; None takes any for it.
    """
    drawn: Counter[str] = Counter()

    def each() -> Iterator[Candidate]:
        for prompt, responses in zip(prompts, samples, strict=True):
            key = prompt_key(prompt)
            for one in responses:
                k, drawn[key] = drawn[key], drawn[key] + 1
                said = (tuple(prompt), one.text, _reason(one, prompt, end))
                yield Candidate(round, iteration, k, *said, policy, temperature, seed)

    return list(each())


def _reason(one: Sample, prompt: Messages, end: Callable[[Messages], int] | None) -> str:
    other = one.finish_reason == "stop" and end is not None and one.ids[-1] != end(prompt)
    return "other_stop" if other else one.finish_reason

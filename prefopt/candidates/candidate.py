"""A candidate: one response, how it was sampled and what ended it, and its line in a file. With a score: `Scored`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ..data.records import FINISH_REASONS, Messages, plain_turn
from ..generation.stopping import Sample

Key = tuple[int, int, str, int]
"""Round, iteration, prompt, and which of the responses to that prompt."""


def prompt_key(prompt: Messages) -> str:
    """A hash of what a prompt says: the same prompt has the same key in every round."""
    turns = [list(plain_turn(turn).values()) for turn in prompt]
    return hashlib.blake2b(json.dumps(turns).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Candidate:
    """A response and how it was sampled.

    Args:
        round, iteration: when it was sampled, from 0.
        k: which of the responses to this prompt in this iteration, from 0.
        prompt: its turns.
        response: its text.
        finish_reason: what ended it: "stop", "stop_string", or "length" if the length limit truncated it; "other_stop"
            is a stop token that training does not end responses with, as of a policy that may stop on several.
        policy: the version of the policy, such as its fingerprint or the name of its checkpoint.
        temperature, seed: what it was sampled with.
        ids: those that were sampled, as `Sample.ids` has them, up to a stop string; None where it is text alone: a
            dataset's answer, a response before a stop string that begins within a token, or one of an earlier version.
        tokenizer: the fingerprint of the tokenizer that the ids are of, see `prefopt.data.tokenizer_identity`.

    Raises:
        ValueError: another finish reason, or a number below 0.
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
    ids: tuple[int, ...] | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if self.finish_reason not in FINISH_REASONS:
            raise ValueError(f"finish_reason={self.finish_reason!r}: known are {', '.join(FINISH_REASONS)}")
        if min(self.round, self.iteration, self.k) < 0:
            raise ValueError(f"round {self.round}, iteration {self.iteration} and k {self.k} count from 0")

    @cached_property
    def prompt_key(self) -> str:
        """A hash of what the prompt says, the same in every round."""
        return prompt_key(self.prompt)

    @property
    def prompt_start(self) -> str:
        """The beginning of the prompt's last turn, for messages."""
        return self.prompt[-1]["content"][:60] if self.prompt else ""

    @property
    def key(self) -> Key:
        """Names the candidate in its pool."""
        return self.round, self.iteration, self.prompt_key, self.k

    @property
    def finished(self) -> bool:
        """Whether the response terminated and was not truncated.

        A scorer sees a stop string as an end too; a training target does not.
        """
        return self.finish_reason != "length"

    @property
    def settings(self) -> tuple[str, float, int]:
        """What the run that sampled it decided."""
        return self.policy, self.temperature, self.seed

    @property
    def trained_ids(self) -> tuple[int, ...]:
        """The ids that training takes, which end as the text does; () where it is text alone."""
        ids = self.ids or ()
        return ids[:-1] if self.finish_reason == "other_stop" else ids

    def record(self) -> dict[str, Any]:
        """The candidate as a line of a file has it."""
        prompt = [plain_turn(turn) for turn in self.prompt]
        temperature = float(self.temperature)  # 1 and 1.0 are the same bytes
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        return {**fields, "prompt": prompt, "prompt_key": self.prompt_key, "temperature": temperature}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Candidate:
        """The candidate of a record."""
        fields = {name: value for name, value in record.items() if name != "prompt_key"}
        ids = None if fields.get("ids") is None else tuple(fields["ids"])
        return cls(**fields | {"prompt": tuple(record["prompt"]), "ids": ids})


def last_tokenizer(candidates: Iterable[Candidate]) -> str:
    """The fingerprint of the tokenizer that the last of the candidates whose ids are known were sampled with, or ""."""
    known = [each for each in candidates if each.trained_ids and each.tokenizer]
    return max(known, key=lambda each: (each.round, each.iteration)).tokenizer or "" if known else ""


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
    tokenizer: str | None = None,
) -> list[Candidate]:
    """What `sample` returned for `prompts`, as candidates. Responses to a prompt that stands there twice count on.

    Args:
        samples: for each prompt the responses to it.
        end: says which stop token ends a response to a prompt in training; None takes any for it.
        tokenizer: the fingerprint of the policy's tokenizer; without it the ids are left out.
    """
    responses_to: Counter[str] = Counter()

    def candidates() -> Iterator[Candidate]:
        for prompt, responses in zip(prompts, samples, strict=True):
            key = prompt_key(prompt)
            for sample in responses:
                k, responses_to[key] = responses_to[key], responses_to[key] + 1
                content = (tuple(prompt), sample.text, _finish_reason(sample, prompt, end))
                ids = _ids(sample) if tokenizer else None
                by = None if ids is None else tokenizer
                yield Candidate(round, iteration, k, *content, policy, temperature, seed, ids, by)

    return list(candidates())


def _ids(sample: Sample) -> tuple[int, ...] | None:
    """The ids that were sampled, without those of a stop string; None where it begins within one of them."""
    if sample.finish_reason != "stop_string":
        return tuple(sample.ids)
    return None if sample.before_stop_string is None else tuple(sample.ids[: sample.before_stop_string])


def _finish_reason(sample: Sample, prompt: Messages, end: Callable[[Messages], int] | None) -> str:
    is_other = sample.finish_reason == "stop" and end is not None and sample.ids[-1] != end(prompt)
    return "other_stop" if is_other else sample.finish_reason

"""What a scorer is (`Scorer`), a function as one, and `score_samples`: how responses are scored everywhere.

A scorer reads text and gives one number per response, so that a policy and a reward model need not share a vocabulary.
Also where they do, it is the text that is scored, as the reward model was trained on texts: the ids that a policy
sampled may be others, and then one text would have several scores, by what no reader sees. Pairs of one text could be
selected, and scores would not compare with those of judges, of other policies and of a dataset's answers.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ..data.records import Messages
from ..generation.stopping import Sample
from ..utils.fingerprint import fingerprint_of_code

SHOWN = 60
"""How many characters of a text an error message shows."""


class ScoreError(ValueError):
    """A scorer did not give one finite number per response; the message names the scorer and the row."""


class Scorer(Protocol):
    """Says what responses are worth, whatever it may be made of; anything with these three members is one."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def fingerprint(self) -> str:
        """Letters, digits, ".", "_" and "-"; the same exactly when the scores are."""
        ...

    def score(
        self, prompts: Sequence[Messages], responses: Sequence[str], finished: Sequence[bool] | None = None
    ) -> list[float]:
        """One score per row, which must not depend on the other rows that are asked for with it.

        Args:
            prompts, responses: one of each per row.
            finished: which responses terminated by themselves and were not truncated; None means that all did.
        """
        ...


class CallableScorer:
    """A Python function as a scorer: `function(prompts, responses)` gives one number per row, in their order.

    It also gets `finished` if it has a parameter of that name.

    Args:
        function: any callable.
        name: for people; its own name by default.
        fingerprint: what changes when the scores do. By default made from the source of the function, its defaults
            and the plain values that it closes over; helpers it calls and files it reads are not seen.

    Raises:
        ValueError: it has state that cannot be read and no fingerprint was given.
    """

    def __init__(self, function: Callable[..., Any], name: str | None = None, fingerprint: str | None = None):
        self.function = function
        self.name = str(name or getattr(function, "__name__", type(function).__name__))
        self.fingerprint = fingerprint or fingerprint_of_code(function)
        self._takes_finished = "finished" in inspect.signature(function).parameters

    def score(
        self, prompts: Sequence[Messages], responses: Sequence[str], finished: Sequence[bool] | None = None
    ) -> list[float]:
        ended = all_finished(prompts, responses, finished)
        extra = {"finished": ended} if self._takes_finished else {}
        return checked(self.name, self.function(prompts, responses, **extra), prompts, responses)


def all_finished(
    prompts: Sequence[Messages], responses: Sequence[str], finished: Sequence[bool] | None
) -> Sequence[bool]:
    """`finished`, or True for every row where it is None.

    Raises:
        ValueError: the three are not of one length.
    """
    ended = [True] * len(responses) if finished is None else finished
    if not len(prompts) == len(responses) == len(ended):
        raise ValueError(
            f"{len(prompts)} prompts, {len(responses)} responses and {len(ended)} finished: one of each a row"
        )
    return ended


def score_samples(scorer: Scorer, prompts: Sequence[Messages], samples: Sequence[Sequence[Sample]]) -> list[float]:
    """The scores of all responses to each prompt, prompt after prompt.

    Args:
        samples: for each prompt the responses to it.

    Raises:
        ScoreError: the scorer did not give one finite number per response; it names the row.
    """
    prompt_of_row = [prompt for prompt, responses in zip(prompts, samples, strict=True) for _ in responses]
    flat = [sample for responses in samples for sample in responses]
    texts, finished = [sample.text for sample in flat], [sample.finished for sample in flat]
    return checked(scorer.name, scorer.score(prompt_of_row, texts, finished), prompt_of_row, texts)


def checked(name: str, scores: Any, prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
    """What a scorer returned, as a list of one finite number per row.

    Raises:
        ScoreError: not a list of numbers, another count, or a score that is not finite; it names the row.
    """
    values = scores.tolist() if isinstance(scores, np.ndarray | Tensor) else scores
    if not isinstance(values, list | tuple):
        raise ScoreError(f"scorer {name!r} returned {_shown(scores)} for {len(responses)} responses: give a list")
    if len(values) != len(responses):
        row = min(len(values), len(responses))
        first = f"the first without one is {_row(row, prompts, responses)}" if row < len(responses) else "too many"
        raise ScoreError(f"scorer {name!r} returned {len(values)} scores for {len(responses)} responses: {first}")
    return [_number(name, value, row, prompts, responses) for row, value in enumerate(values)]


def _number(name: str, value: Any, row: int, prompts: Sequence[Messages], responses: Sequence[str]) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise ScoreError(f"scorer {name!r} gave {_shown(value)} to {_row(row, prompts, responses)}")
    return score


def _row(row: int, prompts: Sequence[Messages], responses: Sequence[str]) -> str:
    prompt = prompts[row][-1]["content"] if prompts[row] else ""
    return f"row {row} (prompt {_shown(prompt)}, response {_shown(responses[row])})"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."

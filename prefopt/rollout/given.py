"""What a dataset brings to drawing: its distinct prompts, and its own answers as candidates. Knows no policy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .candidate import Candidate, prompt_key
from .score import Messages

DATASET = "dataset"
"""What the pool calls the policy of answers that came with the rows."""


class Given:
    """Rows of text by prompt, in the order in which the prompts first occur; equal answers count once."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]):
        found: dict[str, tuple[Messages, dict[str, None]]] = {}
        for row in rows:
            _, answers = found.setdefault(prompt_key(row["prompt"]), (row["prompt"], {}))
            answers.update(dict.fromkeys(answers_of(row)))
        self.prompts = [prompt for prompt, _ in found.values()]
        self.answers = {key: list(answers) for key, (_, answers) in found.items()}

    def candidates(self, prompts: Sequence[Messages], iteration: int, first: int) -> Iterator[Candidate]:
        """The answers to these prompts as candidates of an iteration, numbered from `first`."""
        for prompt in prompts:
            for k, answer in enumerate(self.answers[prompt_key(prompt)], first):
                yield Candidate(0, iteration, k, tuple(prompt), answer, "stop", DATASET, 0.0, 0)


def answers_of(row: Mapping[str, Any]) -> list[str]:
    """The responses of a row of text, the first answer of each."""
    if "responses" in row:
        return list(row["responses"])
    return [row[name] for name in ("chosen", "rejected", "response") if name in row]


def prompts_of(rows: Any) -> list[Messages]:
    """The prompts of rows of text.

    Raises:
        ValueError: there are no rows.
    """
    if rows is None:
        raise ValueError("no held-out prompts: pass an eval_dataset to the trainer")
    return [row["prompt"] for row in rows]

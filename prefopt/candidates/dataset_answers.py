"""What a dataset brings to drawing: its distinct prompts, and its own answers as candidates. Knows no policy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..data.records import Messages, responses_of
from ..utils.shuffle import turns
from .candidate import Candidate, prompt_key

DATASET = "dataset"
"""What the pool calls the policy of answers that came with the rows."""


class Given:
    """Rows of text by prompt, in the order in which the prompts first occur; equal answers count once."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]):
        found: dict[str, tuple[Messages, dict[str, bool]]] = {}
        for row in rows:
            _, answers = found.setdefault(prompt_key(row["prompt"]), (row["prompt"], {}))
            for answer, finished in answers_of(row):
                answers[answer] = finished or answers.get(answer, False)
        self.prompts = [prompt for prompt, _ in found.values()]
        self.answers = {key: answers for key, (_, answers) in found.items()}

    def candidates(self, prompts: Sequence[Messages], iteration: int, first: int) -> Iterator[Candidate]:
        """The answers to these prompts as candidates of an iteration, numbered from `first`."""
        for prompt in prompts:
            for k, (answer, finished) in enumerate(self.answers[prompt_key(prompt)].items(), first):
                reason = "stop" if finished else "length"
                yield Candidate(0, iteration, k, tuple(prompt), answer, reason, DATASET, 0.0, 0)

    def turn(self, number: int, size: int | None, seed: int) -> list[Messages]:
        """The prompts of iteration `number`: all, or the next `size` of a shuffle that begins anew when all had theirs.

        In the order of the rows.
        """
        count = len(self.prompts)
        if size is None or size >= count:
            return self.prompts
        chosen = turns(range(number * size, (number + 1) * size), count, seed)
        return [self.prompts[each] for each in sorted(set(chosen))]


def answers_of(row: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """The responses of a row of text, the first answer of each, and whether it is whole and not cut off."""
    answers = responses_of(row)
    return list(zip(answers, row.get("finished") or [True] * len(answers), strict=True))


def prompts_of(rows: Any) -> list[Messages]:
    """The prompts of rows of text.

    Raises:
        ValueError: there are no rows.
    """
    if rows is None:
        raise ValueError("no held-out prompts: pass an eval_dataset to the trainer")
    return [row["prompt"] for row in rows]

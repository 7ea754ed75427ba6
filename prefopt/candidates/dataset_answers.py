"""What a dataset brings to sampling: its distinct prompts, and its own answers as candidates (`DatasetAnswers`)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..data.records import Messages, are_texts, responses_of
from ..utils.renamed import renamed
from ..utils.shuffle import shuffled
from .candidate import Candidate, prompt_key

logger = logging.getLogger(__name__)

DATASET = "dataset"
"""What the pool calls the policy of answers that came with the rows."""


class DatasetAnswers:
    """The distinct prompts of a dataset's rows, in the order in which they first occur, and the answers to them.

    Args:
        rows: rows of text, as trainers take them. Equal answers to a prompt count once; those that call tools,
            or have a thought, are left out, which is logged.

    Attributes:
        prompts: each prompt once.
        answers: key of a prompt -> answer -> whether it is whole and not cut off.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]):
        by_key: dict[str, tuple[Messages, dict[str, bool]]] = {}
        others = 0
        for row in rows:
            others += are_texts(row).count(False)
            _, answers = by_key.setdefault(prompt_key(row["prompt"]), (row["prompt"], {}))
            for answer, finished in answers_of(row):
                answers[answer] = finished or answers.get(answer, False)
        if others:
            logger.warning("%s answers have tool calls or a thought, and are no text to compare with: left out", others)
        self.prompts = [prompt for prompt, _ in by_key.values()]
        self.answers = {key: answers for key, (_, answers) in by_key.items()}

    def candidates(self, prompts: Sequence[Messages], iteration: int, first: int) -> Iterator[Candidate]:
        """The answers to these prompts as candidates of an iteration, numbered from `first`."""
        for prompt in prompts:
            for k, (answer, finished) in enumerate(self.answers[prompt_key(prompt)].items(), first):
                reason = "stop" if finished else "length"
                yield Candidate(0, iteration, k, tuple(prompt), answer, reason, DATASET, 0.0, 0)

    def numbers_of(self, iteration: int, size: int | None, seed: int) -> list[int]:
        """Which of `prompts` an iteration responds to, in the order of the rows.

        All, or the next `size` of a shuffle that begins anew when all had their turn.
        """
        count = len(self.prompts)
        if size is None or size >= count:
            return list(range(count))
        return sorted(set(shuffled(range(iteration * size, (iteration + 1) * size), count, seed)))


def answers_of(row: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """The responses of a row of text, the first answer of each, and whether it is whole and not cut off.

    Those that call tools or have a thought are left out: their text is what the chat template of a policy writes.
    """
    answers = responses_of(row)
    rows = zip(answers, row.get("finished") or [True] * len(answers), are_texts(row), strict=True)
    return [(answer, finished) for answer, finished, is_text in rows if is_text]


def prompts_of(rows: Any) -> list[Messages]:
    """The prompts of rows of text.

    Raises:
        ValueError: there are no rows.
    """
    if rows is None:
        raise ValueError("no held-out prompts: pass an eval_dataset to the trainer")
    return [row["prompt"] for row in rows]


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Given": "DatasetAnswers"})

"""Multiple-choice accuracy by the log-likelihood of options. Knows questions and a policy, no file and no method.

What alignment costs elsewhere, the "alignment tax" (Ouyang et al., arXiv:2203.02155, section 4.2), shows on questions
that the preferences say nothing about. Nothing is generated: the option that the policy finds likeliest is its answer.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ...data.batching import split_by_tokens
from ...data.records import DataError
from ...data.row_encoder import Encoder
from ...data.template import Message
from ...data.truncation import Encoding
from ...utils.tensors import masked_sum
from ..records import CHOICES, table
from .questions import Question
from .questions import read_questions as read_questions
from .responses import TOKENS, token_logps

logger = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass(frozen=True)
class Wording:
    """How a question is put, in one language."""

    instruction: str
    options: str
    answer: str
    gap: str
    """Before an answer that follows plain text."""


ENGLISH = Wording("Answer the following multiple-choice questions with a letter.", "{}. {}", "Answer:", " ")
CHINESE = Wording("下面是单项选择题，请用选项的字母作答。", "{}. {}", "答案：", "")


@dataclass(frozen=True)
class Scoring:
    """What stands for an option.

    Args:
        listed: the question comes with its options, each under its letter, and what is scored is the letter.
        value: log-likelihood and number of tokens -> what the options are ranked by.
    """

    listed: bool
    value: Callable[[float, int], float]


SCORINGS = {
    # As C-Eval asks for answers (Huang et al., arXiv:2305.08322).
    "letter": Scoring(True, lambda logp, tokens: logp),
    # By the mean over tokens, as long options have more to lose (Brown et al., arXiv:2005.14165, section 2.4).
    "text": Scoring(False, lambda logp, tokens: logp / tokens),
}


def measure_choices(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    shots: int = 0,
    examples: Sequence[Question] = (),
    scoring: str = "letter",
    chat: bool | None = None,
    tokens_per_batch: int = TOKENS,
    progress: bool = False,
) -> pd.DataFrame:
    """Which option a policy picks for each question, and whether it is right: the columns of `records.CHOICES`.

    Args:
        shots: so many questions are shown before each, with their answers. Where a question has no room for them all in
            the policy's context, the last ones are left out, and counted in a warning.
        examples: where shots are taken from, the first ones, such as the questions of a dev file. Without them they are
            the first ones of each file, which are then not asked.
        scoring: "letter" lists the options and ranks their letters; "text" lists none and ranks their texts by the mean
            log-likelihood of a token.
        chat: put questions as a conversation, by the chat template or, without one, as Human and Assistant; False puts
            them as plain text. None is whether the tokenizer has a template.

    Raises:
        DataError: no questions, fewer than shots, a shot that is asked for as well, or a question that is too long.
        ValueError: an unknown scoring.
    """
    if scoring not in SCORINGS:
        raise ValueError(f"scoring={scoring!r}: choose one of {', '.join(SCORINGS)}")
    dealt = _dealt(questions, shots, examples)
    asker = Asker(tokenizer, SCORINGS[scoring], bool(tokenizer.chat_template) if chat is None else chat, _room(policy))
    asked = [question for part, _ in dealt for question in part]
    rows = [row for part, shown in dealt for row in asker.encoded(part, shown)]
    found = log_likelihoods(policy, rows, tokens_per_batch, progress)
    picked = [_likeliest(totals, row["response_ids"], asker.scoring) for totals, row in zip(found, rows, strict=True)]
    return table([_found(*each) for each in zip(asked, picked, strict=True)], CHOICES)


def _dealt(
    questions: Sequence[Question], shots: int, examples: Sequence[Question]
) -> list[tuple[list[Question], list[Question]]]:
    """The questions to ask, and those to show before each of them, file by file."""
    if not questions or shots < 0:
        raise DataError(f"{len(questions)} questions and shots={shots}: give at least one file, and 0 shots or more")
    if examples:
        _check(questions, examples[:shots], shots)
        return [(list(questions), list(examples[:shots]))]
    files: dict[str, list[Question]] = {}
    for question in questions:
        files.setdefault(question.file, []).append(question)
    for part in files.values():
        _check(part[shots:], part[:shots], shots)
    return [(part[shots:], part[:shots]) for part in files.values()]


def _check(asked: Sequence[Question], shown: Sequence[Question], shots: int) -> None:
    if len(shown) < shots or not asked:
        at = f"{shown[0].origin}: " if shown else ""
        raise DataError(f"{at}{len(shown)} questions are too few for {shots} shots and one to ask: ask for fewer shots")
    origins = {(shot.text, shot.options): shot.origin for shot in shown}
    for question in asked:
        if at := origins.get((question.text, question.options), ""):
            raise DataError(f"{question.origin}: shown with its answer from {at}: take shots from other rows")


def log_likelihoods(
    policy: Any, rows: Sequence[Row], tokens_per_batch: int, progress: bool = False
) -> list[list[float]]:
    """Of each option of each row, summed over its tokens."""
    found: list[list[float]] = [[] for _ in rows]
    with tqdm(total=len(rows), desc="answering questions", disable=not progress) as bar:
        for numbers in _batches(rows, tokens_per_batch):
            logps, mask = token_logps(policy, [rows[number] for number in numbers])
            for number, totals in zip(numbers, masked_sum(logps, mask).tolist(), strict=True):
                found[number] = totals[: len(rows[number]["response_ids"])]  # another row may have more options
            bar.update(len(numbers))
    return found


def _room(policy: Any) -> float:
    """Tokens of the policy's context."""
    return getattr(policy.config.get_text_config(decoder=True), "max_position_embeddings", None) or math.inf


def _likeliest(totals: Sequence[float], options: Sequence[Sequence[int]], scoring: Scoring) -> int:
    """The first option of the highest value."""
    values = [scoring.value(total, len(ids)) for total, ids in zip(totals, options, strict=True)]
    return values.index(max(values))


def _found(question: Question, picked: int) -> Row:
    correct = float(picked == question.answer)
    where = {"file": question.file, "question": question.number}
    return {**where, "picked": picked, "answer": question.answer, "correct": correct}


def _batches(rows: Sequence[Row], budget: int) -> Iterator[list[int]]:
    """Numbers of rows, the longest first; counted as if each option brought its prompt, as padded ones do."""
    costs = torch.tensor([sum(len(row["prompt_ids"]) + len(ids) for ids in row["response_ids"]) for row in rows])
    yield from split_by_tokens(torch.argsort(costs, descending=True, stable=True).tolist(), costs, budget)


class Asker:
    """Puts questions to a policy: each is a prompt, shared by its options as so many responses without a stop token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, scoring: Scoring, chat: bool, room: float):
        self.encoder = Encoder(tokenizer, Encoding(max_length=None), allow_empty=True)
        self.scoring, self.chat, self.room = scoring, chat, room

    def encoded(self, questions: Sequence[Question], shots: Sequence[Question]) -> list[Row]:
        """Rows with `prompt_ids` and `response_ids`, with as many shots as there is room for."""
        found = self._rows(questions, shots)
        long = [number for number, row in enumerate(found) if _length(row) > self.room]
        for number in long:
            found[number] = self._shortened(questions[number], shots)
        if long:
            logger.warning(
                "%d of %d questions have no room for all of %d shots in %d tokens and get fewer",
                *(len(long), len(questions), len(shots), self.room),
            )
        return found

    def _shortened(self, question: Question, shots: Sequence[Question]) -> Row:
        for count in reversed(range(len(shots))):
            (row,) = self._rows([question], shots[:count])
            if _length(row) <= self.room:
                return row
        raise DataError(f"{question.origin}: the question alone is longer than the policy's {self.room:.0f} positions")

    def _rows(self, questions: Sequence[Question], shots: Sequence[Question]) -> list[Row]:
        batch: dict[str, list[Any]] = {
            "prompt": [self.prompt(question, shots) for question in questions],
            "responses": [[self._said(question, i) for i in range(len(question.options))] for question in questions],
            "finished": [[False] * len(question.options) for question in questions],
        }
        found = self.encoder(batch, list(range(len(questions))))
        rows = zip(found["prompt_ids"], found["response_ids"], strict=True)
        encoded = [{"prompt_ids": prompt, "response_ids": options} for prompt, options in rows]
        for question, row in zip(questions, encoded, strict=True):
            if not all(row["response_ids"]):
                raise DataError(f"{question.origin}: an option is no text to this tokenizer: mend or remove it")
        return encoded

    def prompt(self, question: Question, shots: Sequence[Question]) -> list[Message]:
        """The turns before the answer; plain text is one turn without a speaker."""
        wording = _wording(question)
        asked = [self._asked(each, wording) for each in (*shots, question)]
        answers = [self._said(shot, shot.answer, wording) for shot in shots]
        opening = f"{wording.instruction}\n\n" if self.scoring.listed else ""
        if not self.chat:
            shown = "".join(f"{text}{answer}\n\n" for text, answer in zip(asked, answers, strict=False))
            return [{"role": "text", "content": f"{opening}{shown}{asked[-1]}"}]
        asked[0] = opening + asked[0]
        turns = [{"role": "user", "content": text} for text in asked]
        replies = [{"role": "assistant", "content": answer} for answer in answers]
        return [turn for both in zip(turns, replies, strict=False) for turn in both] + turns[-1:]

    def _asked(self, question: Question, wording: Wording) -> str:
        options = [wording.options.format(*each) for each in zip(ascii_uppercase, question.options, strict=False)]
        return "\n".join([question.text, *(options if self.scoring.listed else []), wording.answer])

    def _said(self, question: Question, number: int, wording: Wording | None = None) -> str:
        text = ascii_uppercase[number] if self.scoring.listed else question.options[number]
        return text if self.chat else (wording or _wording(question)).gap + text


def _wording(question: Question) -> Wording:
    """Chinese for a question with Han characters."""
    return CHINESE if any("\u3400" <= each <= "\u9fff" for each in question.text) else ENGLISH


def _length(row: Row) -> int:
    """Tokens of the longest way through a row."""
    return len(row["prompt_ids"]) + max(map(len, row["response_ids"]))
